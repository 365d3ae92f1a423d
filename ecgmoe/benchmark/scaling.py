"""A training step of the same records on one worker and on more, which divide its global batch among them.

The workers are those of a run, each on one thread or one GPU, without Ray: they read, train, agree and log as in a run.
Beside them, as many runs of one worker at once, each with its share of the records, that know nothing of each other: what
the machine gives that many, whose cores share caches and memory, before any of them has to wait for another.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from dataclasses import asdict, replace
from functools import partial
from multiprocessing.synchronize import Barrier
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
        Milliseconds per step on one worker (medians over turns of means over steps), and by number of workers: the same,
        how many times as fast as one they are, the milliseconds of runs apart, and their time as a share of the workers'.
    """
    import torch

    gpus = torch.cuda.device_count()
    workers = [1, *(count for count in (2, 4, 8, 16) if count <= max(gpus, 2) and config.training.slots % count == 0)]
    training = replace(config.training, num_workers=1, min_workers=0, use_gpu=gpus >= 2, log_every=STEPS)
    config = replace(config, training=training)
    prepared, _ = steps_to_measure(data, config, pairs)
    with tempfile.TemporaryDirectory(prefix="ecgmoe-benchmark-") as folder:

        def own(name: str) -> str:
            made = Path(folder) / name
            made.mkdir()
            return str(made)

        ways = []
        for count in workers:
            place, layout = own(f"{count}-workers"), replace(training, num_workers=count)
            job = worker_job(replace(config, training=layout), prepared, place)
            ways.append(partial(_first, job, count, training.use_gpu, place))
        for count in workers[1:]:
            places = [own(f"{number}-of-{count}-apart") for number in range(count)]
            # A share of each slot's records, so that whatever divides the workers' batch divides this one.
            share = replace(training, global_batch=training.global_batch // count, slots=training.slots // count)
            runs = [worker_job(replace(config, training=share), prepared, each) for each in places]
            ways.append(partial(_apart, runs, training.use_gpu, places))
        one, *others = sliced(ways, pairs, steps=STEPS, warm_up=WARM)
    more, apart = others[: len(workers) - 1], others[len(workers) - 1 :]
    return {
        "preset": preset,
        "device": "cuda" if training.use_gpu else "cpu",
        "records_per_step": training.global_batch,
        "steps": STEPS,
        "pairs": pairs,
        "ms_per_step": 1e3 * statistics.median(one),
        "workers": {
            str(count): {
                "ms_per_step": 1e3 * statistics.median(each),
                "times_as_fast": asdict(ratio(one, each)),
                "apart_ms_per_step": 1e3 * statistics.median(alone),
                "apart_share": asdict(ratio(alone, each)),
            }
            for count, each, alone in zip(workers[1:], more, apart, strict=True)
        },
    }


def _first(job: WorkerJob, world: int, gpu: bool, folder: str, turn: Turn) -> None:
    """The first rank, which starts the others and asks for all of them: they wait for it in the step's collectives."""
    context = multiprocessing.get_context("spawn")
    for rank in range(1, world):
        context.Process(target=_other, args=(job, rank, world, gpu, folder), daemon=True).start()
    join_group(0, world, folder, gpu=gpu)
    run_in_turns(worker_of(job), turn)


def _other(job: WorkerJob, rank: int, world: int, gpu: bool, folder: str) -> None:
    join_group(rank, world, folder, gpu=gpu)
    worker_of(job).run()


def _apart(jobs: list[WorkerJob], gpu: bool, folders: list[str], turn: Turn) -> None:
    """Runs that begin together; one of them asks for the turns of all."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(len(jobs))
    for number in range(1, len(jobs)):
        context.Process(target=_beside, args=(jobs[number], number, gpu, folders[number], ready), daemon=True).start()
    join_group(0, 1, folders[0], gpu=gpu)
    worker = worker_of(jobs[0])
    ready.wait()
    run_in_turns(worker, turn)


def _beside(job: WorkerJob, number: int, gpu: bool, folder: str, ready: Barrier) -> None:
    join_group(0, 1, folder, gpu=gpu, device=number)
    worker = worker_of(job)
    ready.wait()
    worker.run()
