"""Cells of a table without training: what stands where Ray, training and prediction are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from safetensors.numpy import save

from ecgmoe.config import RunConfig
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.inference.predict_split import wanted_labels
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.tasks import task_table
from ecgmoe.training import tracking
from ecgmoe.training.alone import can_be_alone
from ecgmoe.training.identity import run_identity
from ecgmoe.tuning import ablation, cells
from ecgmoe.tuning.table_figures import RATE
from ecgmoe.tuning.trials import Ended
from prepared_examples import map_here

TASKS = task_table()
NOISE = {"ecg_moe": 5.0, "residual_network": 15.0}
"""Years by which a variant misses an age."""
REVISION = "0ddba11"


class Fakes:
    """Stand where training, prediction and Ray Tune are, which need Ray."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.alone = False
        self.trained: list[tuple[str, int, str]] = []
        self.fail_at: int | None = None
        self.failing: set[str] = set()
        self.losses: dict[str, int] = {}
        patch.setattr(cells, "embed", lambda *_, **__: {})
        patch.setattr(cells, "train", self.train)
        patch.setattr(cells, "predict_split", self.predict)
        patch.setattr(cells, "at_once", lambda *_: 1)
        patch.setattr(cells, "alive_nodes", lambda: [{}])
        patch.setattr(cells, "run_trials", self.run_trials)
        patch.setattr(ablation, "at_once", lambda *_: 1)
        patch.setattr(ablation, "check_resources", lambda *_: None)
        from ecgmoe.evaluation import record_statistics

        patch.setattr(record_statistics, "map_shards", map_here)

    def run_trials(self, call: Any, space: dict[str, Any], *, alone: bool, **_: Any) -> list[Ended]:
        self.alone = alone
        ended = []
        for name in space["cell"]["grid_search"]:
            values, failure = {"cell": name}, "lead V9 is unknown" if name in self.failing else None
            if lost := self.losses.get(name, 0) > 0:
                failure, self.losses[name] = "its process is gone", self.losses[name] - 1
            if not failure:
                call(values)
            ended.append(Ended(trial=name, values=values, failure=failure, lost=lost))
        return ended

    def train(
        self,
        config: RunConfig,
        *,
        data: str,
        features: Any,
        name: str,
        storage: str,
        parent: Any,
        alone: bool,
        shared: str,
    ) -> str:
        # A trial has a CPU of its own where it trains itself, and only there.
        assert alone == self.alone == can_be_alone(config)
        # All cells share what they can.
        assert shared == storage
        if self.fail_at == len(self.trained):
            raise KeyboardInterrupt
        self.trained.append((name, config.training.seed, data.rsplit("/", 1)[1]))
        backbones = [{"name": each.name, "provenance": None} for each in config.backbones]
        run = Store(f"{storage}/{name}")
        run.write_json(
            "config.json", {**run_identity(config, PreparedData(data, features)), "code": {"revision": REVISION}}
        )
        run.write_json("model/config.json", {"backbones": backbones})
        if parent:
            with run.writing("model/model.safetensors") as file:
                file.write(save({"weight": np.zeros((7, 6), np.float32), "bias": np.zeros(7, np.float32)}))
            run_id = tracking.create_run(parent.uri, name, {}, {}, artifacts=f"{storage}/artifacts", parent=parent)
            MlflowClient(parent.uri).log_metric(run_id, RATE, 40.0 + config.training.seed, step=1)
            run.write_json("mlflow.json", {"tracking_uri": parent.uri, "run_id": run_id})
        return f"{storage}/{name}/model"

    def predict(self, model: str, data: str, split: str, workers: int, here: bool) -> pa.Table:
        name = model.split("/")[-2]
        rng = np.random.default_rng(list(name.encode()))
        labels = wanted_labels(PreparedData(data), split)
        n = len(labels)
        age = np.nan_to_num(np.array(labels["age_years"].to_pylist(), float), nan=50)
        rhythm = rng.random((n, 15))
        values = {
            "rr": rng.normal(800, 50, n),
            "age": age + rng.normal(0, NOISE[name.partition("-")[0]], n),
            "sex": rng.random(n),
            "potassium": rng.random(n),
            "arrhythmia": rhythm / rhythm.sum(1, keepdims=True),
        }
        found = {key: value.astype(np.float32) for key, value in values.items()}
        return prediction_table(found, labels, TASKS, rr_detected_ms=pa.array([800.0] * n, pa.float32()))
