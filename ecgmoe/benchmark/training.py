"""A training step of this project beside a bare DeepSpeed loop over batches that lie in memory already.

Ours reads and augments in its threads, keeps the mean of the weights, agrees with other ranks, counts, prints and logs to
MLflow once in each turn, which is four times as often as a run does; without Ray no gauge is set. The bare loop does nothing
but the model, its loss, backward and step, as a script under torchrun would. Both on one thread of a process of their own.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any

import ray
import torch

from ecgmoe.benchmark.paired import interval, ratio
from ecgmoe.benchmark.slices import Turn, sliced
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, require, to_dict
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.losses import composite, task_losses
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.pipeline.embed import embed
from ecgmoe.pipeline.prepared import PreparedData, split_rows
from ecgmoe.pipeline.store import Store
from ecgmoe.training.alone import group_of_one
from ecgmoe.training.fit_statistics import training_statistics
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.plan import GlobalBatch
from ecgmoe.training.run import mlflow_run
from ecgmoe.training.tracking import default_uri

WARM = 5
"""Steps that do not count."""
STEPS = 5
"""Of a turn: long enough that a turn holds everything a step may bring, short enough that the machine is the same."""


def training_benchmark(data: str, config: RunConfig, *, preset: str, pairs: int = 10) -> dict[str, Any]:
    """Alternate turns of a few steps of both.

    Args:
        data: prepared folder.
        preset: name of the configuration.
        config: of the training, in fp32 without accumulation; layout and device are set to one worker on a CPU.
        pairs: turns of each.

    Returns:
        Milliseconds per step of each (medians over turns of means over steps), by how much ours takes longer with its
        interval, and the bare loop's time as a share of ours: 1 would be no overhead.
    """
    require(
        config.training.precision == "fp32" and config.training.accumulation == 1,
        "the bare loop trains in fp32 without accumulation: choose the preset tiny or bench",
    )
    config = replace(
        config, training=replace(config.training, num_workers=1, min_workers=0, use_gpu=False, log_every=STEPS)
    )
    prepared, steps = steps_to_measure(data, config, pairs)
    with tempfile.TemporaryDirectory(prefix="ecgmoe-benchmark-") as folder:
        job = worker_job(config, prepared, folder)
        ours, bare = sliced([partial(_ours, job), partial(_bare, job, steps)], pairs, steps=STEPS, warm_up=WARM)
    longer = [1e3 * (one - other) for one, other in zip(ours, bare, strict=True)]
    low, high = interval(longer)
    return {
        "preset": preset,
        "records_per_step": config.training.global_batch,
        "steps": STEPS,
        "pairs": pairs,
        "ms_per_step": 1e3 * statistics.median(ours),
        "bare_ms_per_step": 1e3 * statistics.median(bare),
        "longer_ms": {"median": statistics.median(longer), "low": low, "high": high},
        "bare_share": asdict(ratio(bare, ours)),
    }


def steps_to_measure(data: str, config: RunConfig, pairs: int) -> tuple[PreparedData, int]:
    """Embed what the configuration caches, end Ray, and see that one epoch is enough, since nothing validates meanwhile.

    Returns:
        The prepared folder, and the steps that a way makes.

    Raises:
        ValueError: an epoch has fewer.
    """
    features, steps = embed(data, config.cached, precision=config.training.precision), WARM + pairs * STEPS + 1
    # Nothing else runs while it is measured.
    ray.shutdown()
    prepared = PreparedData(data, features)
    epoch = len(split_rows(prepared.labels(), "train")) // config.training.global_batch
    require(
        epoch >= steps,
        f"{data} has {epoch} steps in an epoch and {steps} are measured: give more records (--size) or fewer --pairs",
    )
    return prepared, steps


def worker_job(config: RunConfig, data: PreparedData, folder: str) -> WorkerJob:
    """A run in a folder, with its MLflow beside it."""
    run, uri = Store(folder) / "run", default_uri(folder)
    return WorkerJob(
        config=to_dict(config),
        data=data.store.root,
        run=run.root,
        features=data.features,
        statistics=to_dict(training_statistics(data, data.labels(), config)),
        tracking_uri=uri,
        mlflow_run_id=mlflow_run(run, uri, config, data, "benchmark"),
    )


def worker_of(job: WorkerJob) -> Any:
    """The one worker of a run, in this process; nobody watches whether it hangs. DeepSpeed is imported here."""
    from ecgmoe.training.link import Alone
    from ecgmoe.training.watch import Watch
    from ecgmoe.training.worker import Worker

    return Worker(job, Watch(None, Store(job.run), 0, 1e9), Alone())


def _begin() -> None:
    """What both need in their process, before DeepSpeed is imported."""
    os.environ |= {"DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    group_of_one()


def _ours(job: WorkerJob, turn: Turn) -> None:
    _begin()
    run_in_turns(worker_of(job), turn)


def run_in_turns(worker: Any, turn: Turn) -> None:
    """A rank of a run as it is, which asks for its turn before each step."""
    step = worker.step

    def asks(batch: ECGBatch, whole: GlobalBatch) -> dict[str, torch.Tensor]:
        turn()
        return step(batch, whole)

    worker.step = asks
    worker.run()


def _bare(job: WorkerJob, steps: int, turn: Turn) -> None:
    """The batches of that run, read and augmented before."""
    _begin()
    import deepspeed

    from ecgmoe.training.build import build_backbones, build_model
    from ecgmoe.training.engine import deepspeed_config, destroy
    from ecgmoe.training.global_terms import GlobalTerms
    from ecgmoe.training.optimizer import make_optimizer, make_schedule

    worker = worker_of(job)
    batches = list(islice(worker.batches(worker.plan(0), 0, 0), steps))
    destroy(worker.engine)
    config, statistics_ = from_dict(RunConfig, job.config), from_dict(TrainingStatistics, job.statistics)
    model, tasks = build_model(config, statistics_, build_backbones(config)), config.task_table()
    optimizer = make_optimizer(model.parameters(), config.training)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=make_schedule(optimizer, config.training, 1000),
        config=deepspeed_config(config.training),
        dist_init_required=False,
    )
    terms = GlobalTerms(config.loss)
    for whole, batch in batches:
        turn()
        output = engine(batch)
        totals = {task.name: float(config.training.global_batch) for task in tasks}
        parts = task_losses(output, batch, tasks, statistics_, totals)
        parts |= terms(terms.see(output), whole, batch.patient_id)
        engine.backward(composite(parts, config.loss, tasks, output.log_variance, totals, 1.0))
        engine.step()
