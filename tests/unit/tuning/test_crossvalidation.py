"""Cross-validation on files alone: which cells are computed, what is pooled, and what the comparison says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgmoe.config import RunConfig
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.evaluation.report import LINEAR
from ecgmoe.inference.predict_split import wanted_labels
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.tasks import task_table
from ecgmoe.tuning import cells
from ecgmoe.tuning.crossvalidation import cross_validate
from ecgmoe.tuning.trials import Ended
from finished_runs import CONFIG
from prepared_examples import map_here, simulated_and_prepared

TASKS = task_table()
NOISE = {"ecg_moe": 5.0, "residual_network": 15.0}
"""Years by which a variant misses an age."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated_and_prepared(tmp_path_factory.mktemp("crossvalidation"), patients=90, studies=150)


class Fakes:
    """Stand where training, prediction and Ray Tune are, which need Ray."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.trained: list[tuple[str, int, str]] = []
        self.fail_at: int | None = None
        patch.setattr(cells, "embed", lambda *_, **__: {})
        patch.setattr(cells, "train", self.train)
        patch.setattr(cells, "predict_split", self.predict)
        patch.setattr(cells, "at_once", lambda *_: 1)
        patch.setattr(cells, "run_trials", self.run_trials)
        from ecgmoe.evaluation import record_statistics

        patch.setattr(record_statistics, "map_shards", map_here)

    def run_trials(self, call: Any, space: dict[str, Any], **_: Any) -> list[Ended]:
        every = [{"cell": name} for name in space["cell"]["grid_search"]]
        for values in every:
            call(values)
        return [Ended(trial=values["cell"], values=values) for values in every]

    def train(self, config: RunConfig, *, data: str, features: Any, name: str, storage: str, parent: Any) -> str:
        if self.fail_at == len(self.trained):
            raise KeyboardInterrupt
        self.trained.append((name, config.training.seed, data.rsplit("/", 1)[1]))
        backbones = [{"name": each.name, "provenance": None} for each in config.backbones]
        Store(f"{storage}/{name}").write_json("model/config.json", {"backbones": backbones})
        return f"{storage}/{name}/model"

    def predict(self, model: str, data: str, split: str, workers: int) -> pa.Table:
        name = model.split("/")[-2]
        rng = np.random.default_rng(len(name))
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


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


def compare(data: Path, storage: Path, **changes: Any) -> dict[str, Any]:
    variants: Sequence[str] = ("ecg_moe", "residual_network")
    options = {"folds": 3, "seeds": (0, 7)} | changes
    return cross_validate(CONFIG, variants, data=str(data), name="both", storage=str(storage), **options)


def test_every_record_is_predicted_once_by_each_variant_and_seed(
    data: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = compare(data, tmp_path)
    assert len(fakes.trained) == 2 * 3 * 2
    assert ("residual_network-fold2-seed7", 7, "2") in fakes.trained
    labels = PreparedData(str(data)).labels()
    outside = labels.filter(np.array(labels["split"].to_pylist()) != "test")
    for name in ("ecg_moe", "residual_network"):
        table = pq.read_table(tmp_path / "both" / "predictions" / f"{name}.parquet")
        for seed in (0, 7):
            studies = table.filter(np.array(table["seed"]) == seed)["study_id"].to_pylist()
            assert sorted(studies) == sorted(outside["study_id"].to_pylist())
    age = metrics["tasks"]["age"]
    known = len(outside) - outside["age_years"].null_count
    assert age["n"] == 2 * known
    assert age["mae"] == pytest.approx(NOISE["ecg_moe"] * 0.8, rel=0.2)
    assert age["beside"]["residual_network"]["mae"] == pytest.approx(NOISE["residual_network"] * 0.8, rel=0.2)
    assert age["beside"][LINEAR]["mae"] < age["constant"]["mae"] * 1.2
    said = capsys.readouterr().out
    assert "| age | mae (years) | lower | residual_network | -" in said
    assert "| better |" in said
    assert "no difference shown" in said
    assert "SIMULATED DATA" in said
    assert "Random-initialised backbones: dlinear, timesnet." in said
    report = tmp_path / "both" / "report"
    assert json.loads((report / "metrics.json").read_text())["tasks"]["age"]["mae"] == age["mae"]
    assert "residual_network" in (report / "differences.md").read_text()


def test_what_is_finished_is_not_predicted_again(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    fakes.fail_at = 7
    with pytest.raises(KeyboardInterrupt):
        compare(data, tmp_path)
    before = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("test.parquet")}
    assert len(before) == 7
    fakes.fail_at = None
    whole = compare(data, tmp_path)
    assert {each: each.stat().st_mtime_ns for each in before} == before
    assert whole == compare(data, tmp_path)


def test_two_seeds_are_no_more_patients(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    """Twice the rows of the same patients: the interval has to stay about as wide."""

    def width(metrics: dict[str, Any]) -> float:
        low, high = metrics["tasks"]["age"]["mae_ci"]
        return high - low

    one, two = compare(data, tmp_path / "one", seeds=(0,)), compare(data, tmp_path / "two", seeds=(0, 1))
    assert width(two) > 0.8 * width(one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "name each seed once"),
        ({"seeds": (1, 1)}, "name each seed once"),
        ({"folds": 1}, "folds must be at least 2"),
    ],
)
def test_wrong_options(data: Path, tmp_path: Path, fakes: Fakes, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(data, tmp_path, **changes)
    assert not fakes.trained


def test_an_unknown_variant_is_refused_before_anything_trains(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    with pytest.raises(ValueError, match="unknown variant 'resnet'"):
        cross_validate(CONFIG, ("ecg_moe", "resnet"), data=str(data), name="x", storage=str(tmp_path))
    assert not fakes.trained


def test_a_training_that_fails_is_named_with_its_reason(
    data: Path, tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(call: Any, space: dict[str, Any], **_: Any) -> list[Ended]:
        names = space["cell"]["grid_search"]
        return [
            Ended(trial=name, values={"cell": name}, failure="no room" if "fold1" in name else None) for name in names
        ]

    monkeypatch.setattr(cells, "run_trials", fails)
    with pytest.raises(ValueError, match=r"2 of 6 trainings failed.*ecg_moe-fold1-seed0: no room"):
        compare(data, tmp_path, seeds=(0,))
