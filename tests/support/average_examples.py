"""Steps of the real training loop with a running mean of the weights, in a process group, without Ray."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from resume_examples import unwatched


def steps_with_mean(jobs: list[dict[str, Any]], steps: int, file: str) -> list[dict[str, Any]]:
    """So many steps of each job, the mean looked at after every one; call it on every rank.

    Returns:
        By job: "weights" and "means", the whole states after each step (empty on all ranks but 0), "again", the state once
        the mean is put away, and "loaded", the mean of the last step after it went through a model file.
    """
    from ecgmoe.training.average import WeightAverage
    from ecgmoe.training.checkpoint import full_state
    from ecgmoe.training.engine import destroy
    from ecgmoe.training.job import WorkerJob
    from ecgmoe.training.link import Alone
    from ecgmoe.training.worker import Worker

    results = []
    for job in jobs:
        handed = WorkerJob(**job)
        worker = Worker(handed, unwatched(handed), Alone())
        weights, means, again = [full_state(worker.engine)], [], {}
        for whole, batch in islice(worker.batches(worker.plan(0), 0, 0), steps):
            worker.step(batch, whole)
            worker.average.update(worker.engine.global_steps)
            weights.append(full_state(worker.engine))
            with worker.average.shown():
                means.append(full_state(worker.engine))
                metrics = worker_metrics(worker)
            again = full_state(worker.engine)
        if worker.rank == 0:
            save_file(means[-1], file)
        worker.validate()  # with a barrier in it, so that the file is there
        new = WeightAverage(worker.engine, worker.training.weight_average)
        new.load(Path(file))
        with new.shown():
            loaded = full_state(worker.engine)
        plain = worker_metrics(worker)
        results.append(
            {"weights": weights, "means": means, "again": again, "loaded": loaded, "metrics": [metrics, plain]}
        )
        destroy(worker.engine)
    return results


def worker_metrics(worker: Any) -> dict[str, Any]:
    """Metrics of the validation split with whatever weights stand."""
    from ecgmoe.training.validation import validate

    return validate(worker.engine, worker.reader, worker.labels, worker.tasks, worker.training)["tasks"]
