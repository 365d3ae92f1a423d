"""From simulated files to predictions, through the entry points that a user calls, on two workers.

The run has a sixth backbone, in a file of the user's own.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from mlflow import MlflowClient

import jobs
from documents import python_block
from ecgmoe.config_tools import from_dict
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.evaluation.report import number
from ecgmoe.tasks import task_table
from external_records import write_ludb
from identifiers import found_below, found_in_text, identifiers
from jobs import job
from prepared_examples import prepare_here

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end_to_end")
    simulate(folder / "raw", SimulationConfig(patients=110, studies=240, seed=1))
    return folder


@pytest.fixture(scope="module")
def my_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The module of BACKBONES.md with a backbone and a preset, on the PYTHONPATH of all processes to come."""
    folder = tmp_path_factory.mktemp("my_lab")
    (folder / "my_lab.py").write_text(python_block("BACKBONES.md", "# my_lab.py"))
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        patch.setenv("PYTHONPATH", path)
        patch.setitem(jobs.ENVIRONMENT, "PYTHONPATH", path)
        yield


@pytest.fixture(scope="module")
def call(my_lab: None) -> Iterator[Callable[..., str]]:
    """Runs a job on one Ray of two CPUs, which all jobs of this module join."""
    ray.init(address="local", num_cpus=2, log_to_driver=False)
    yield partial(job, address=ray.get_runtime_context().gcs_address)
    ray.shutdown()


def test_the_whole_way(folder: Path, call: Callable[..., str]) -> None:
    data, storage = str(folder / "data"), str(folder / "runs")
    said = call("prepare", "--dataset", "simulated", "--root", str(folder / "raw"), "--out", data)
    assert "exclusions.parquet says why" in said
    whose = identifiers(folder / "data")
    assert found_in_text(whose, said) == set()

    options = (
        "--data",
        data,
        "--run",
        "first",
        "--storage",
        storage,
        "--training.epochs",
        "2",
        "--pretraining.epochs",
        "1",
    )
    said = call("train", "my_lab:six", *options)
    assert "epoch 2/2" in said
    assert "memory per worker, predicted: " in said
    run = folder / "runs" / "first"
    assert found_in_text(whose, said) == set()
    assert found_below(whose, folder / "runs" / "mlflow.db", folder / "runs" / "mlflow-artifacts") == {}
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    check_metrics(metrics)
    check_tracking(run)
    distances = json.loads((run / "report" / "routing.json").read_text())["distance"]
    # Five tasks, ten pairs: after two epochs their gates differ already.
    assert len(distances) == 10
    assert min(distances.values()) > 0
    assert (run / "report" / "routing_by_task.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report" / "report.html").read_text()
    assert "SIMULATED DATA" in page
    assert "Random-initialised backbones" in page
    assert f"<td>{number(metrics['tasks']['rr']['mae'])}</td>" in page
    check_card(run, len(labels_of(folder, "train")), metrics)
    test_studies = labels_of(folder, "test")
    predictions = pq.read_table(run / "predictions" / "test.parquet").to_pylist()
    assert sorted(row["study_id"] for row in predictions) == sorted(test_studies)
    assert all(row["label_rr"] is None or row["label_rr"] == test_studies[row["study_id"]] for row in predictions)

    check_external(folder, run, partial(call, "evaluate", "--run", "first", "--storage", storage))

    out = folder / "predictions.parquet"
    call("predict", "--model", str(run / "model"), "--input", str(folder / "raw" / "files"), "--out", str(out))
    calibration = from_dict(Calibration, json.loads((run / "model" / "calibration.json").read_text()))
    assert calibration.fitted_on == "the validation split of simulated"
    excluded = len(pq.read_table(folder / "data/exclusions.parquet"))
    check_predictions(pq.read_table(out).to_pylist(), predictions, excluded, calibration)


def check_card(run: Path, training_records: int, metrics: dict[str, Any]) -> None:
    """The model folder says what it was trained on, and its card what came of it."""
    trained_on = json.loads((run / "model" / "config.json").read_text())["trained_on"]
    assert (trained_on["dataset"], trained_on["records"]) == ("simulated", training_records)
    card = (run / "model" / "README.md").read_text()
    assert "SIMULATED DATA" in card
    assert f"Trained on simulated: {training_records:,} records" in card
    low, high = metrics["tasks"]["age"]["mae_ci"]
    assert f"| {number(low)} .. {number(high)} |" in card


def check_external(folder: Path, run: Path, evaluate: Callable[..., str]) -> None:
    """All records of another dataset, with a list of what it lacks; the run's own report stays what it is."""
    of_run = [run / "report" / "metrics.json", run / "model" / "README.md"]
    own = [file.read_bytes() for file in of_run]
    write_ludb(folder / "ludb", [{}, {"Rhythms": "Atrial fibrillation"}, {"Sex": "M"}, {"Age": ">89"}])
    prepare_here(folder / "ludb", folder / "other", dataset="ludb")
    said = evaluate("--data", str(folder / "other"), "--split", "all")
    assert "first: all of ludb, 4 records; trained on simulated" in said
    assert "absent: potassium, no label among the 4 evaluated records." in said
    assert "absent: no record of arrhythmia is paced, " in said
    metrics = json.loads((run / "report-all-other" / "metrics.json").read_text())
    assert {task: values["n"] for task, values in metrics["tasks"].items()} == {
        "rr": 4,
        "age": 3,
        "sex": 4,
        "arrhythmia": 4,
    }
    # People's marks, so that the figures are a claim.
    assert "note" not in metrics["tasks"]["rr"]
    assert metrics["tasks"]["rr"]["median_detected_rr"]["mae"] == 0
    assert len(metrics["absent"]["classes"]["arrhythmia"]) == 13
    assert metrics["seen"] == {"left_out": 0, "notes": []}
    assert len(pq.read_table(run / "predictions" / "all-other.parquet")) == 4
    assert [file.read_bytes() for file in of_run] == own
    assert "includes its training records: name train" in evaluate("--split", "all", expect=2)


def labels_of(folder: Path, split: str) -> dict[int, float]:
    rows = pq.read_table(folder / "data" / "labels.parquet").to_pylist()
    return {row["study_id"]: row["rr_label_ms"] for row in rows if row["split"] == split}


def check_metrics(metrics: dict[str, Any]) -> None:
    tasks = metrics["tasks"]
    assert set(tasks) == {"rr", "age", "sex", "potassium", "arrhythmia"}
    for name, keys in {
        "rr": {"n", "mae"},
        "age": {"n", "mae"},
        "sex": {"n", "auroc", "f1_macro", "f1_binary"},
        "arrhythmia": {"n", "accuracy", "f1_macro", "log_loss"},
    }.items():
        assert keys <= set(tasks[name])
        assert keys - {"n"} <= set(tasks[name]["constant"])
        assert keys - {"n"} <= set(tasks[name]["beside"]["linear"])
    assert 0 < metrics["linear"]["training_records"] < 240
    # The detector's median is among the statistics.
    assert tasks["rr"]["beside"]["linear"]["mae"] < tasks["rr"]["constant"]["mae"]
    assert math.isfinite(tasks["rr"]["mae"])


def check_tracking(run: Path) -> None:
    """MLflow has the losses and the use of the experts."""
    known = json.loads((run / "mlflow.json").read_text())
    logged = MlflowClient(known["tracking_uri"]).get_run(known["run_id"]).data.metrics
    assert {"train/loss_rr", "train/learning_rate", "validation/score", "routing/dead_experts"} <= set(logged)
    assert logged["memory/predicted_total_bytes"] > logged["memory/predicted_parameters_bytes"] > 0
    shares = [
        value for name, value in logged.items() if name.startswith("routing/sex/") and not name.endswith("entropy")
    ]
    assert len(shares) == 5
    assert sum(shares) == pytest.approx(1, abs=1e-5)


def check_predictions(
    rows: list[dict[str, Any]], known: list[dict[str, Any]], excluded: int, calibration: Calibration
) -> None:
    """One row per file; the records of the test split get what evaluation got from the prepared data, calibrated."""
    by_study = {int(Path(row["path"]).name): row for row in rows}
    assert len(by_study) == len(rows) == 240
    assert sum(row["reason"] is not None for row in rows) == excluded > 0
    assert all((row["rr_ms"] is None) == (row["reason"] is not None) for row in rows)
    sex, rhythm = (task_table((name,))[0] for name in ("sex", "arrhythmia"))
    for row in known:
        again = by_study[row["study_id"]]
        # Neighbours in the batch differ, so sums are taken in another order: fp32 rounding, nothing more.
        assert again["rr_ms"] == pytest.approx(row["rr_ms"], rel=1e-4)
        female = calibration.probabilities(sex, np.array([row["sex_female_probability"]]))
        assert again["sex_female_probability"] == pytest.approx(female[0], abs=1e-4)
        classes = calibration.probabilities(rhythm, np.array([row["arrhythmia_probabilities"]]))
        assert again["arrhythmia_probability"] == pytest.approx(classes.max(), abs=1e-4)
