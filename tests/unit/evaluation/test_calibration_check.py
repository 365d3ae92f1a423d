"""What is said of calibration on the test split, against the definitions."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from ecgmoe.evaluation.calibration import Calibration, fit
from ecgmoe.evaluation.calibration_check import calibration_metrics, reliability
from ecgmoe.evaluation.known import known_arrays
from ecgmoe.tasks import task_table
from predictions_examples import made_up

TASKS = task_table()
Found = tuple[pa.Table, Calibration, dict[str, dict]]


@pytest.fixture(scope="module")
def found() -> Found:
    calibration = fit(made_up(TASKS, 300, 0), TASKS, "made up")
    table = made_up(TASKS, 200, 1)
    return table, calibration, calibration_metrics(table, calibration, TASKS)


def test_coverage_and_width_are_counted(found: Found) -> None:
    table, calibration, metrics = found
    for name in ("rr", "age"):
        conformal = metrics[name]["conformal"]
        known = known_arrays(next(task for task in TASKS if task.name == name), table)
        inside = np.abs(known.predicted - known.truth) <= calibration.half_width[name]
        assert conformal["coverage"] == pytest.approx(inside.mean(), abs=1e-12)
        low, high = conformal["coverage_ci"]
        assert low < conformal["coverage"] < high
        assert conformal["half_width"] == calibration.half_width[name]
    # 1.645 standard deviations of a normal error of 9 years hold 90 %; 300 patients know a quantile to some 5 %.
    assert metrics["age"]["conformal"]["half_width"] == pytest.approx(1.645 * 9, rel=0.15)


def test_sets_are_counted_by_class_and_by_size(found: Found) -> None:
    table, calibration, metrics = found
    task = TASKS[-1]
    known = known_arrays(task, table)
    sets = calibration.sets(task, calibration.probabilities(task, known.predicted))
    assert sets is not None
    conformal = metrics["arrhythmia"]["conformal"]
    covered = sets[np.arange(len(sets)), known.truth]
    assert conformal["coverage"] == pytest.approx(covered.mean(), abs=1e-12)
    assert conformal["mean_size"] == pytest.approx(sets.sum(1).mean(), abs=1e-12)
    assert sum(size * count for size, count in enumerate(conformal["sizes"], 1)) == sets.sum()
    assert sum(conformal["sizes"]) == len(sets)
    weighted = sum(each["n"] * each["coverage"] for each in conformal["classes"].values())
    assert weighted == pytest.approx(covered.sum())


def test_losses_are_those_of_the_calibrated_probabilities(found: Found) -> None:
    table, calibration, metrics = found
    for task in TASKS[2:]:
        known = known_arrays(task, table)
        p = calibration.probabilities(task, known.predicted)
        both = p if p.ndim == 2 else np.stack([1 - p, p], 1)
        expected = log_loss(known.truth, both, labels=np.arange(both.shape[1]))
        assert metrics[task.name]["log_loss"] == pytest.approx(expected, abs=1e-9)


def test_the_reliability_curve_is_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(500)
    right = (rng.random(500) < p**2).astype(float)
    frequency, confidence = calibration_curve(right, p, n_bins=15)
    found = reliability(p, right)
    assert [each["frequency"] for each in found] == pytest.approx(frequency.tolist(), abs=1e-12)
    assert [each["confidence"] for each in found] == pytest.approx(confidence.tolist(), abs=1e-12)
    assert sum(each["n"] for each in found) == 500


def test_only_what_was_fitted_and_has_labels_is_there(found: Found) -> None:
    table, calibration, metrics = found
    assert set(metrics) == {task.name for task in TASKS}
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert calibration_metrics(table, Calibration(), TASKS) == {}
    column = table.schema.get_field_index("label_age")
    without = table.set_column(column, "label_age", pa.nulls(len(table), pa.float32()))
    assert "age" not in calibration_metrics(without, calibration, TASKS)
