"""What the driver hands to every worker: plain values only, since they travel between processes and machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class WorkerJob:
    """One training run, as a worker sees it.

    Attributes:
        config: the run's configuration as plain values.
        data: prepared folder.
        run: folder of the run.
        features: feature key of each cached backbone.
        statistics: `TrainingStatistics` as plain values.
        tracking_uri: of MLflow.
        mlflow_run_id: the one MLflow run of this training, through any number of restarts.
        shared: folder in which runs keep their pre-trainings for each other; None where it has nobody to share with.
    """

    config: dict[str, Any]
    data: str
    run: str
    features: dict[str, str]
    statistics: dict[str, Any]
    tracking_uri: str
    mlflow_run_id: str
    shared: str | None = None
