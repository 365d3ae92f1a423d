"""What the driver hands to every worker: plain values only, since they travel between processes and machines."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class WorkerJob:
    """One training run, as a worker sees it.

    Attributes:
        config: the run's configuration as plain values.
        data: prepared folder.
        features: feature key of each cached backbone.
        statistics: `TrainingStatistics` as plain values.
        tracking_uri: of MLflow.
        mlflow_run_id: the one MLflow run of this training, through any number of restarts.
    """

    config: dict[str, Any]
    data: str
    features: dict[str, str]
    statistics: dict[str, Any]
    tracking_uri: str
    mlflow_run_id: str


def train_worker(values: dict[str, Any]) -> None:
    """What Ray Train calls on every worker.

    DeepSpeed is imported here and not in the driver, which may be a machine without its accelerator.
    """
    from ecgmoe.training.worker import Worker

    # Ray Train sets the root logger to INFO, and then every rank tells of every checkpoint.
    logging.getLogger().setLevel(logging.WARNING)
    started = time.perf_counter()
    worker = Worker(WorkerJob(**values))
    if worker.rank == 0:
        print(f"workers ready after {time.perf_counter() - started:.1f} s", flush=True)
    worker.run()
