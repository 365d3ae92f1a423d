"""What a rank does from the start of a run to its end: its pre-training, where it has one, and its training."""

from __future__ import annotations

import time
from typing import Any

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict
from ecgmoe.training import not_finite
from ecgmoe.training.alone import forget_peak_memory
from ecgmoe.training.engine import destroy
from ecgmoe.training.faults import memory_advice
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.link import Link
from ecgmoe.training.pretraining import Pretraining, clear, is_due
from ecgmoe.training.watch import STARTING, Watch
from ecgmoe.training.worker import Worker


def run_worker(job: WorkerJob, watch: Watch, link: Link) -> dict[str, Any]:
    """Train on this rank to the end of the run, again from the last checkpoint where a batch is left out.

    Returns:
        As `Worker.run`.

    Raises:
        NotFiniteError: a loss or the gradient is not finite.
        MemoryError: with what to turn down.
    """
    with memory_advice(from_dict(RunConfig, job.config).training):
        if is_due(job):
            ended = _to_its_end(Pretraining, job, watch, link)
            if ended["stopped_at"] is not None:
                return ended
            # What is told of the training is its own.
            forget_peak_memory()
        if from_dict(RunConfig, job.config).pretraining.epochs:
            clear(job)
        return _to_its_end(Worker, job, watch, link)


def _to_its_end(stage: type[Worker], job: WorkerJob, watch: Watch, link: Link) -> dict[str, Any]:
    while True:
        started = time.perf_counter()
        watch.progress(STARTING)
        worker = stage(job, watch, link)
        if worker.rank == 0:
            print(f"workers ready after {time.perf_counter() - started:.1f} s", flush=True)
        try:
            result = worker.run()
        except not_finite.BatchLeftOut:
            destroy(worker.engine)
        except Exception:
            # One of several ends with its process: DeepSpeed would wait for a GPU that waits for the other ranks.
            if worker.world == 1:
                destroy(worker.engine)
            raise
        else:
            # The process may have other runs to train.
            destroy(worker.engine)
            return result
