"""Runs beside a run, and the calibration of a model folder, on files alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgmoe import assessment
from ecgmoe.assessment import calibrate, predictions_beside
from ecgmoe.config_tools import to_dict
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.model.folder import ModelFolderError
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.tasks import task_table
from predictions_examples import made_up
from prepared_examples import simulated_and_prepared

TASKS = task_table()


def evaluated(folder: Path, predictions: pa.Table, classes: tuple[str, ...] = TASKS[-1].classes) -> Store:
    """What jobs/evaluate.py leaves of a run, as far as another run looks at it."""
    store = Store(str(folder))
    store.write_json("config.json", {})
    store.write_text("model/model.safetensors", "")
    store.write_json("model/config.json", {"classes": {"arrhythmia": list(classes)}})
    with store.writing("predictions/test.parquet") as file:
        pq.write_table(predictions, file)
    return store


def test_the_other_runs_predictions_come_row_by_row(tmp_path: Path) -> None:
    table = made_up(TASKS, 20, 1)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(40)))
    evaluated(tmp_path / "other", shuffled.drop_columns(["age_years"]))
    found = predictions_beside(str(tmp_path), "other", "test", table, TASKS)
    assert set(found) == {"rr", "sex", "potassium", "arrhythmia"}
    assert found["sex"].tolist() == table["sex_female_probability"].to_pylist()
    assert found["arrhythmia"].sum(1) == pytest.approx(1, abs=1e-12)
    assert found["arrhythmia"] == pytest.approx(np.stack(table["arrhythmia_probabilities"].to_numpy()), abs=1e-6)


def test_a_run_that_cannot_stand_beside_is_refused(tmp_path: Path) -> None:
    table = made_up(TASKS, 20, 1)
    with pytest.raises(ValueError, match=r"there is no run .*/other: name one"):
        predictions_beside(str(tmp_path), "other", "test", table, TASKS)
    store = evaluated(tmp_path / "other", table)
    with pytest.raises(ValueError, match=r"has no predictions/validation.parquet: call jobs/evaluate.py for it first"):
        predictions_beside(str(tmp_path), "other", "validation", table, TASKS)
    with pytest.raises(ValueError, match=r"test.parquet is of other records: call jobs/evaluate.py for the run other"):
        predictions_beside(str(tmp_path), "other", "test", table.slice(1), TASKS)
    evaluated(tmp_path / "other", table, classes=("one", "another"))
    with pytest.raises(ValueError, match=r"other classes of the task arrhythmia: leave it out of --beside"):
        predictions_beside(str(tmp_path), "other", "test", table, TASKS)
    store.remove("model/model.safetensors")
    with pytest.raises(ValueError, match=r"is not finished: call jobs/train.py"):
        predictions_beside(str(tmp_path), "other", "test", table, TASKS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData(str(simulated_and_prepared(tmp_path_factory.mktemp("calibrate"))))


def test_a_model_is_calibrated_once(tmp_path: Path, data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def predict(model: str, folder: str, split: str) -> pa.Table:
        asked.append(split)
        return made_up(TASKS, 50, 3)

    monkeypatch.setattr(assessment, "predict_split", predict)
    model = Store(str(tmp_path / "model"))
    first = calibrate(model, data, TASKS)
    assert set(first.patients) == {task.name for task in TASKS}
    assert first.fitted_on == "the validation split of simulated"
    assert calibrate(model, data, TASKS) == first
    assert asked == ["validation"]


def test_without_validation_nothing_is_calibrated(
    tmp_path: Path, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = data.labels()
    renamed = labels.set_column(labels.schema.get_field_index("split"), "split", pa.array(["train"] * len(labels)))
    monkeypatch.setattr(data, "labels", lambda: renamed)
    found = calibrate(Store(str(tmp_path / "model")), data, TASKS)
    assert found.left_out["age"] == "the validation split of simulated is empty"
    assert not found.patients
    assert not (tmp_path / "model").exists()


def test_a_calibration_that_is_none_is_refused(tmp_path: Path, data: PreparedData) -> None:
    model = Store(str(tmp_path / "model"))
    model.write_json("calibration.json", {**to_dict(Calibration()), "level": 2})
    with pytest.raises(
        ModelFolderError, match=r"(?s)calibration.json is not a calibration .*level must be .*evaluate.py makes it"
    ):
        calibrate(model, data, TASKS)
