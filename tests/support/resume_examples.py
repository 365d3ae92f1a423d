"""Whole runs of the real training loop in a process group, interrupted where a test says, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from ecgmoe.pipeline.store import Store
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.link import Alone
from ecgmoe.training.watch import Watch
from training_examples import keep_gradients


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def unwatched(job: WorkerJob) -> Watch:
    """A watch that is never opened."""
    return Watch(None, Store(job.run), dist.get_rank(), 1e9)


def run_jobs(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whole runs, one after the other in one process group; call it on every rank.

    Args:
        jobs: each with "job" (what the driver would hand over) and "stops": where its attempts end, as the number of steps
            made, or "validation" for the first validation that an attempt reaches.

    Returns:
        By job: the final state, and that with the mean of the weights in it; the study ids of each step in this rank's
        order (the last attempt at it); what was reported with each checkpoint of the last attempt, and how many steps were
        made in all.
    """
    return [_run(**each) for each in jobs]


def _run(job: dict[str, Any], stops: list[int | str]) -> dict[str, Any]:
    from ecgmoe.training import worker as module
    from ecgmoe.training.checkpoint import full_state
    from ecgmoe.training.engine import destroy

    seen: dict[int, list[list[int]]] = {}
    for stop in [*stops, None]:
        link = Alone()
        with mock.patch.object(module, "validate", _ending(module.validate, stop)):
            handed = WorkerJob(**job)
            worker = module.Worker(handed, unwatched(handed), link)
            worker.step = _ending_step(worker, stop, seen)  # type: ignore[method-assign]
            try:
                worker.run()
                assert stop is None, f"never reached {stop}"
            except Interrupted:
                pass
            state = full_state(worker.engine)
            with worker.average.shown():
                mean = full_state(worker.engine)
            destroy(worker.engine)
    made = sum(len(attempts) for attempts in seen.values())
    found = {"state": state, "mean": mean, "reported": link.reported, "made": made}
    return {**found, "seen": {step: each[-1] for step, each in seen.items()}}


def _ending_step(worker: Any, stop: int | str | None, seen: dict[int, list[list[int]]]) -> Callable[..., Any]:
    """A worker's step that notes the studies, and ends after `stop` steps."""
    original = worker.step

    def step(batch: Any, *arguments: Any) -> Any:
        if worker.engine.global_steps == stop:
            raise Interrupted
        seen.setdefault(worker.engine.global_steps, []).append(batch.study_id.tolist())
        return original(batch, *arguments)

    return step


def _ending(validate: Callable[..., Any], stop: int | str | None) -> Callable[..., Any]:
    """A validation that ends the process before it tells its result."""

    def watched(*arguments: Any) -> Any:
        metrics = validate(*arguments)
        if stop == "validation":
            raise Interrupted
        return metrics

    return watched


def go_on(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some steps of each job in one process group, from a checkpoint or from the beginning; call it on every rank.

    Args:
        jobs: each with "job", "source" (a checkpoint, or None), "write" (folder for one after `BEFORE` steps, or None)
            and "steps".

    Returns:
        By job: losses of each step, the study ids of each in this rank's order, the gradient of the step after `BEFORE`
        by name, the state at the end, and the validation metrics at the beginning.
    """
    return [_go_on(**each) for each in jobs]


BEFORE = 5
"""Steps before the checkpoint that `go_on` writes or reads."""


def _go_on(job: dict[str, Any], source: str | None, write: str | None, steps: int) -> dict[str, Any]:
    from ecgmoe.training import checkpoint
    from ecgmoe.training.checkpoint import Position, full_state
    from ecgmoe.training.collectives import sum_over_ranks
    from ecgmoe.training.engine import destroy
    from ecgmoe.training.progress import Progress
    from ecgmoe.training.validation import validate
    from ecgmoe.training.worker import Worker

    handed = WorkerJob(**job)
    worker = Worker(handed, unwatched(handed), Alone())
    position = checkpoint.load(worker.engine, Path(source), worker.training)[0] if source else Position()
    metrics = validate(worker.engine, worker.reader, worker.labels, worker.tasks, worker.training)["tasks"]
    gradient = keep_gradients(worker.engine, BEFORE)
    progress = Progress(worker.training, worker.total_steps, worker.rank, None, worker.load)
    plan, losses, seen = worker.plan(position.epoch), [], []
    for whole, batch in islice(worker.batches(plan, position.epoch, position.batch), steps):
        seen.append(batch.study_id.tolist())
        parts = worker.step(batch, whole)
        losses.append(sum_over_ranks(torch.stack(list(parts.values()))).tolist())
        position.step, position.batch = position.step + 1, position.batch + 1
        if write and position.step == BEFORE:
            Path(write).mkdir(parents=True, exist_ok=True)
            checkpoint.save(worker.engine, Path(write), position, worker.training, progress.interval())
            dist.barrier()
    assert len(losses) == steps, f"the epoch has {len(losses)} steps"
    state = full_state(worker.engine)
    destroy(worker.engine)
    return {"losses": losses, "seen": seen, "gradient": gradient, "state": state, "metrics": metrics}
