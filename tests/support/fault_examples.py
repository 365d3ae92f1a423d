"""Whole runs of the real training loop that meet a fault, in a process group without Ray."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch.distributed as dist

from ecgmoe.training.job import WorkerJob
from ecgmoe.training.link import Alone
from resume_examples import unwatched


def run_with_an_extreme_label(jobs: list[dict[str, Any]], study: int) -> list[dict[str, Any]]:
    """Runs in which one record has an infinite label; call it on every rank.

    Returns:
        By job: the final state, whether all of it is finite, and the error that ended the run.
    """
    return [_run(job, study) for job in jobs]


def _run(job: dict[str, Any], study: int) -> dict[str, Any]:
    from ecgmoe.training import loader, stages, worker
    from ecgmoe.training.checkpoint import full_state
    from ecgmoe.training.engine import destroy

    engines, states = [], list[dict[str, Any]]()

    class Kept(worker.Worker):
        def run(self) -> dict[str, Any]:
            engines.append(self.engine)
            try:
                return super().run()
            finally:
                states.append(full_state(self.engine))

    handed, error = WorkerJob(**job), ""
    with (
        mock.patch.object(loader, "label_arrays", _extreme(loader.label_arrays, study)),
        mock.patch.object(stages, "Worker", Kept),
    ):
        try:
            stages.run_worker(handed, unwatched(handed), Alone())
        except FloatingPointError as fault:
            error = str(fault)
    state = states[-1]
    if error:
        destroy(engines[-1])
    finite = all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point())
    return {"state": state, "finite": finite, "error": error}


def _extreme(label_arrays: Callable[..., Any], study: int) -> Callable[..., Any]:
    def changed(labels: Any, tasks: Sequence[Any]) -> dict[str, Any]:
        arrays = label_arrays(labels, tasks)
        arrays["sex"][labels["study_id"].to_numpy() == study] = np.inf
        return arrays

    return changed


def run_out_of_memory(job: dict[str, Any], more: int) -> str:
    """A run whose process may take `more` bytes than it has when its first step begins; returns what it says.

    Not before: all threads are there by then. One that starts without memory for its stack may leave Python waiting for it.
    """
    from ecgmoe.training import stages, worker

    class Limited(worker.Worker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            step = self.step

            def limited(*of_a_step: Any) -> Any:
                held = psutil.Process().memory_info().vms
                resource.setrlimit(resource.RLIMIT_AS, (held + more, resource.RLIM_INFINITY))
                return step(*of_a_step)

            self.step = limited  # type: ignore[assignment]

    handed = WorkerJob(**job)
    with mock.patch.object(stages, "Worker", Limited):
        try:
            stages.run_worker(handed, unwatched(handed), Alone())
        except MemoryError as fault:
            return str(fault)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert dist.get_rank() == 0
    return "it had enough"


def hang(run: str, timeout_s: float) -> None:
    """Rank 1 never comes to a collective that rank 0 waits in; both end themselves. Call it on every rank."""
    import time

    from ecgmoe.pipeline.store import Store
    from ecgmoe.training.watch import Watch

    with Watch(None, Store(run), dist.get_rank(), timeout_s) as watch:
        watch.progress("step 7")
        if dist.get_rank() == 1:
            time.sleep(600)
        dist.barrier()
