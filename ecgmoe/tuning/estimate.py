"""What a search or a table will take, from a short step of each configuration, measured before it starts."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import ray

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.pipeline.prepared import PreparedData, split_rows
from ecgmoe.pipeline.ray_data import connect
from ecgmoe.pipeline.store import Store
from ecgmoe.readable import size
from ecgmoe.training.alone import group_of_one
from ecgmoe.training.checkpoint_store import KEPT
from ecgmoe.training.config import PretrainingConfig
from ecgmoe.training.fit_statistics import training_statistics
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.pretrained import pretraining_key

WARM_UP, TIMED = 2, 4
"""Steps that are made; the first ones load and compile what libraries first use."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One worker at its share of the work.

    Attributes:
        step_s: seconds of an optimiser step, with reading and augmentation.
        forward_s: seconds of a pass without gradients over one record.
        parameters: of the model, all.
        trained: of them, that train.
    """

    step_s: float
    forward_s: float
    parameters: int
    trained: int

    @property
    def disk_bytes(self) -> int:
        """Of a training: checkpoints (weights, and fp32 weights and two moments of what trains) and the model."""
        checkpoint = 4 * self.parameters + 12 * self.trained
        # Another one is written before the oldest goes.
        return (KEPT + 2) * checkpoint + 4 * self.parameters


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What trainings will take.

    Attributes:
        trainings: number of them.
        worker_hours: GPU hours, or CPU hours without a GPU: steps and validations, without starts.
        disk_bytes: of all run folders.
        gpu: whether the workers have one.
        upper: whether early stopping may make it less.
    """

    trainings: int
    worker_hours: float
    disk_bytes: int
    gpu: bool
    upper: bool = False

    def line(self, at_once: int, workers: int) -> str:
        """In one line.

        Args:
            at_once: trainings side by side.
            workers: of each.
        """
        most = "at most " if self.upper else "about "
        kind = "GPU" if self.gpu else "CPU"
        wall = self.worker_hours / (at_once * workers)
        return (
            f"{self.trainings} trainings, {at_once} at once with {workers} workers each: {most}{self.worker_hours:.2f} {kind} "
            f"hours, {wall * 60:.0f} min, and {size(self.disk_bytes)} on disk (from {TIMED} measured steps of each "
            "configuration; starts, evaluation and what the trainings take from each other come on top)"
        )


def measure(configs: Mapping[str, RunConfig], data: str, features: Mapping[str, dict[str, str]]) -> dict[str, Measured]:
    """Make some steps as one worker of each configuration does, in one process with such a worker's resources.

    Args:
        configs: by name, all of them with a GPU or none.
        data: prepared folder.
        features: feature key of each cached backbone, by name of the configuration.
    """
    connect()
    use_gpu = any(config.training.use_gpu for config in configs.values())
    remote = ray.remote(num_cpus=0 if use_gpu else 1, num_gpus=int(use_gpu), max_calls=1)(_measured)
    environment = {} if use_gpu else {"DS_ACCELERATOR": "cpu"}
    plain = {name: to_dict(config) for name, config in configs.items()}
    return ray.get(remote.options(runtime_env={"env_vars": environment}).remote(plain, data, dict(features)))


def together(
    configs: Mapping[str, RunConfig],
    counts: Mapping[str, int],
    data: str,
    features: Mapping[str, dict[str, str]],
    rows: Mapping[str, int] | None = None,
    *,
    pretrainings: int,
) -> Estimate:
    """Measure each configuration and add up.

    Args:
        configs: by name.
        counts: trainings of each.
        data: prepared folder, one that stands for all.
        features: feature keys by name.
        rows: records that train and validate; None takes those of the data.
        pretrainings: that are computed of each one that configurations have in common; the others find it done.
    """
    prepared = PreparedData(data)
    rows = rows or {split: len(split_rows(prepared.labels(), split)) for split in ("train", "validation")}
    hours, disk = 0.0, 0
    pretraining: dict[str, float] = {}
    measured = measure(configs, data, features)
    for name, config in configs.items():
        training, found = config.training, measured[name]
        steps = rows["train"] // training.global_batch
        epoch = training.num_workers * steps * found.step_s + rows["validation"] * found.forward_s
        hours += counts[name] * training.epochs * epoch / 3600
        # An epoch of masked reconstruction, of some backbones alone, takes no longer than one of any training that has them.
        key, one = pretraining_key(config, prepared), config.pretraining.epochs * epoch / 3600
        pretraining[key] = min(pretraining.get(key, one), one)
        disk += counts[name] * found.disk_bytes
    gpu = any(config.training.use_gpu for config in configs.values())
    return Estimate(
        trainings=sum(counts.values()),
        worker_hours=hours + pretrainings * sum(pretraining.values()),
        disk_bytes=disk,
        gpu=gpu,
    )


def _measured(configs: dict[str, Any], data: str, features: dict[str, dict[str, str]]) -> dict[str, Measured]:
    group_of_one("nccl" if any(values["training"]["use_gpu"] for values in configs.values()) else "gloo")
    return {name: _steps(values, data, features[name]) for name, values in configs.items()}


def _steps(values: dict[str, Any], data: str, features: dict[str, str]) -> Measured:
    import torch

    from ecgmoe.training.engine import destroy
    from ecgmoe.training.link import Alone
    from ecgmoe.training.watch import Watch
    from ecgmoe.training.worker import Worker

    config = _share_of_one(from_dict(RunConfig, values))
    prepared = PreparedData(data, features)
    statistics = training_statistics(prepared, prepared.labels(), config)
    with tempfile.TemporaryDirectory() as folder:
        job = WorkerJob(
            config=to_dict(config),
            data=prepared.store.root,
            run=folder,
            features=features,
            statistics=to_dict(statistics),
            tracking_uri="unused",
            mlflow_run_id="unused",
        )
        worker = Worker(job, Watch(None, Store(folder), 0, math.inf), Alone())
        seconds, batch = [], None
        started = time.perf_counter()
        for whole, batch in islice(worker.batches(worker.plan(0), 0, 0), WARM_UP + TIMED):
            losses = worker.step(batch, whole)
            # A GPU is done when a number of it is there.
            float(sum(losses.values()))
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
        if batch is None:
            raise ValueError(f"{data} has fewer training records than a global batch: lower --training.global-batch")
        module = worker.engine.module.eval()
        with torch.no_grad():
            started = time.perf_counter()
            output = module(batch.to(worker.device))
            float(next(iter(output.predictions.values())).sum())
            forward = (time.perf_counter() - started) / config.training.global_batch
        # ZeRO 3 has emptied the tensors themselves.
        counted = [(getattr(each, "ds_numel", each.numel()), each.requires_grad) for each in module.parameters()]
        destroy(worker.engine)
    steady = seconds[WARM_UP:] or seconds[-1:]
    return Measured(
        step_s=sum(steady) / len(steady),
        forward_s=forward,
        parameters=sum(count for count, _ in counted),
        trained=sum(count for count, trains in counted if trains),
    )


def _share_of_one(config: RunConfig) -> RunConfig:
    """One worker with the share of the global batch that each has; the schedule of what is not trained would have no end."""
    training = config.training
    share = training.global_batch // training.num_workers
    slots = math.gcd(share, training.slots)
    return replace(
        config,
        # What they leave for the training is not there.
        pretraining=PretrainingConfig(),
        start_from=None,
        training=replace(
            training, num_workers=1, min_workers=0, global_batch=share, slots=slots, epochs=max(1, training.epochs)
        ),
    )
