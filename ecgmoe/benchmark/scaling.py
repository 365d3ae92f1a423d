"""A training step of the same records on one worker and on more, which divide its global batch among them.

The workers are those of a run, each on one thread or one GPU, without Ray: they read, train, agree and log as in a run.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ecgmoe.benchmark.paired import ratio
from ecgmoe.benchmark.ranks import join_group
from ecgmoe.benchmark.slices import Turn, sliced
from ecgmoe.benchmark.training import STEPS, WARM, run_in_turns, steps_to_measure, worker_job, worker_of
from ecgmoe.config import RunConfig
from ecgmoe.training.job import WorkerJob


def scaling_benchmark(data: str, config: RunConfig, *, preset: str, pairs: int = 10) -> dict[str, Any]:
    """Alternate turns of a few steps of one worker and of several, which train on the same batches.

    Args:
        data: prepared folder.
        preset: name of the configuration.
        config: of the training; its layout is set.
        pairs: turns of each.

    Returns:
        Milliseconds per step on one worker (medians over turns of means over steps), and by number of workers the same
        and how many times as fast they are: the number of workers would be all that can be had.
    """
    import torch

    gpus = torch.cuda.device_count()
    workers = [1, *(count for count in (2, 4, 8, 16) if count <= max(gpus, 2) and config.training.slots % count == 0)]
    training = replace(config.training, num_workers=1, min_workers=0, use_gpu=gpus >= 2, log_every=STEPS)
    config = replace(config, training=training)
    prepared, _ = steps_to_measure(data, config, pairs)
    with tempfile.TemporaryDirectory(prefix="ecgmoe-benchmark-") as folder:
        ways = []
        for count in workers:
            own = Path(folder) / f"{count}-workers"
            own.mkdir()
            layout = replace(config, training=replace(training, num_workers=count))
            ways.append(partial(_first, worker_job(layout, prepared, str(own)), count, training.use_gpu, str(own)))
        one, *more = sliced(ways, pairs, steps=STEPS, warm_up=WARM)
    return {
        "preset": preset,
        "device": "cuda" if training.use_gpu else "cpu",
        "records_per_step": training.global_batch,
        "steps": STEPS,
        "pairs": pairs,
        "ms_per_step": 1e3 * statistics.median(one),
        "workers": {
            str(count): {"ms_per_step": 1e3 * statistics.median(each), "times_as_fast": asdict(ratio(one, each))}
            for count, each in zip(workers[1:], more, strict=True)
        },
    }


def _first(job: WorkerJob, world: int, gpu: bool, folder: str, turn: Turn) -> None:
    """The first rank, which starts the others and asks for all of them: they wait for it in the step's collectives."""
    context = multiprocessing.get_context("spawn")
    for rank in range(1, world):
        context.Process(target=_other, args=(job, rank, world, gpu, folder), daemon=True).start()
    join_group(0, world, folder, gpu=gpu)
    run_in_turns(job, turn)


def _other(job: WorkerJob, rank: int, world: int, gpu: bool, folder: str) -> None:
    join_group(rank, world, folder, gpu=gpu)
    worker_of(job).run()
