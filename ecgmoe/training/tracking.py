"""MLflow: one run per training, whatever restarts happen in between.

The driver makes the run; rank 0 logs to it by its id. Metrics go by global step. After a restart the steps since the last
checkpoint are made again and would be stored a second time (MLflow keeps both): the store is asked for the last step of a
series, and what it has is not logged again. The numbers are the same ones where the layout is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

EXPERIMENT = "ecgmoe"


def default_uri(storage: str) -> str:
    """MLFLOW_TRACKING_URI where it is set, else an SQLite file in the storage folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage}/mlflow.db"


def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def create_run(uri: str, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str], artifacts: str) -> str:
    """Make the run and log its parameters; returns its id."""
    client = _client(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    identity = (
        experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    )
    run = client.create_run(identity, run_name=name, tags=dict(tags))
    for key, value in flat(parameters).items():
        client.log_param(run.info.run_id, key, str(value)[:500])
    return run.info.run_id


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(position): item for position, item in enumerate(value)}
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


class Tracker:
    """Logs numbers to one MLflow run."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.client, self.run_id = _client(uri), run_id
        self._last_step: dict[str, int] = {}

    def log(self, metrics: Mapping[str, float | None], step: int, series: str | None = None) -> None:
        """Log what is a number, in one request, which MLflow stores as a whole or not at all.

        Args:
            metrics: by name.
            step: optimiser steps so far.
            series: one of these metrics, which stands for all that are logged along with it: a step up to its last one
                in the store was logged before a restart, and is left out. None logs in any case.
        """
        import time

        from mlflow.entities import Metric

        if series is not None and step <= self._stored_up_to(series):
            return
        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, step) for key, value in metrics.items() if value is not None]
        self.client.log_batch(self.run_id, metrics=entries)

    def _stored_up_to(self, series: str) -> int:
        """The last step of a metric when this process first asked, -1 where it had none."""
        if series not in self._last_step:
            history = self.client.get_metric_history(self.run_id, series)
            self._last_step[series] = max((each.step for each in history), default=-1)
        return self._last_step[series]

    def text(self, text: str, name: str) -> None:
        """Store a text among the run's artifacts."""
        self.client.log_text(self.run_id, text, name)

    def picture(self, png: bytes, name: str) -> None:
        """Store a PNG picture among the run's artifacts."""
        import tempfile
        from pathlib import Path

        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / file
            path.write_bytes(png)
            self.client.log_artifact(self.run_id, str(path), folder or None)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run."""
        self.client.set_terminated(self.run_id, status)
