"""Metrics against scikit-learn and hand computation, on a predictions file with everything that can be missing."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from ecgmoe.evaluation.bootstrap import patient_intervals, patient_samples
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import DERIVED_TARGET, evaluate, regression, score
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.evaluation.report import report_files, text_table
from ecgmoe.tasks import task_table

TASKS = task_table()


def label_rows(n: int, seed: int) -> pa.Table:
    generator = np.random.default_rng(seed)
    potassium = generator.integers(0, 2, n).astype(float)
    missing = generator.random(n) < 0.4
    return pa.table(
        {
            "study_id": np.arange(n),
            "patient_id": generator.integers(0, n // 2, n),
            "path": [f"r{i}" for i in range(n)],
            "rr_source": ["machine"] * n,
            "rr_label_ms": pa.array(generator.normal(800, 100, n), pa.float32()),
            "age_years": pa.array(generator.normal(60, 10, n), pa.float32()),
            "sex_female": pa.array(generator.integers(0, 2, n), pa.int8()),
            "potassium_abnormal": pa.array(potassium, pa.int8(), mask=missing),
            "rhythm15": pa.array(generator.choice([11, 13, 14], n), pa.int8()),
        }
    )


def values(n: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (n, 15))
    return {
        "rr": generator.normal(800, 100, n).astype(np.float32),
        "age": generator.normal(60, 10, n).astype(np.float32),
        "sex": generator.random(n).astype(np.float32),
        "potassium": generator.random(n).astype(np.float32),
        "arrhythmia": (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def example() -> tuple[pa.Table, dict[str, np.ndarray], Constants]:
    labels = label_rows(200, 0)
    return labels, values(200, 1), Constants.fit(label_rows(500, 2), TASKS)


def test_every_metric_is_scikit_learns(example: tuple[pa.Table, dict[str, np.ndarray], Constants]) -> None:
    labels, predicted, constants = example
    tasks = evaluate(prediction_table(predicted, labels, TASKS), constants, TASKS, intervals=False)["tasks"]
    rr = labels["rr_label_ms"].to_numpy().astype(np.float64)
    assert tasks["rr"]["mae"] == pytest.approx(np.abs(rr - predicted["rr"].astype(np.float64)).mean(), abs=1e-9)
    known = labels["potassium_abnormal"].is_valid().to_numpy()
    truth = labels["potassium_abnormal"].to_numpy()[known].astype(int)
    p = predicted["potassium"][known].astype(np.float64)
    expected = {
        "n": known.sum(),
        "auroc": roc_auc_score(truth, p),
        "auprc": average_precision_score(truth, p),
        "f1_macro": f1_score(truth, p >= 0.5, average="macro"),
        "f1_binary": f1_score(truth, p >= 0.5),
    }
    for name, value in expected.items():
        assert tasks["potassium"][name] == pytest.approx(value, abs=1e-9), name
    truth = labels["rhythm15"].to_numpy()
    p = predicted["arrhythmia"].astype(np.float64)
    assert tasks["arrhythmia"]["accuracy"] == pytest.approx((p.argmax(1) == truth).mean(), abs=1e-9)
    # scikit-learn divides by the sum of each row, which is 1 only to fp32 rounding.
    assert tasks["arrhythmia"]["log_loss"] == pytest.approx(log_loss(truth, p, labels=range(15)), abs=1e-6)
    f1 = f1_score(truth, p.argmax(1), average="macro", labels=[11, 13, 14])
    assert tasks["arrhythmia"]["f1_macro"] == pytest.approx(f1, abs=1e-9)


def test_the_constant_is_the_best_one_of_the_training_split(example: tuple[pa.Table, dict[str, np.ndarray], Constants]) -> None:
    labels, predicted, constants = example
    tasks = evaluate(prediction_table(predicted, labels, TASKS), constants, TASKS, intervals=False)["tasks"]
    train = label_rows(500, 2)
    median = np.median(train["age_years"].to_numpy())
    assert tasks["age"]["constant"]["mae"] == pytest.approx(np.abs(labels["age_years"].to_numpy() - median).mean(), rel=1e-6)
    female = labels["sex_female"].to_numpy().mean()
    assert tasks["sex"]["constant"]["auroc"] == 0.5
    assert tasks["sex"]["constant"]["auprc"] == pytest.approx(female)
    assert tasks["sex"]["constant"]["f1_binary"] == pytest.approx(2 * female / (1 + female))
    commonest = np.bincount(train["rhythm15"].to_numpy()).argmax()
    share = (labels["rhythm15"].to_numpy() == commonest).mean()
    assert tasks["arrhythmia"]["constant"]["accuracy"] == pytest.approx(share)
    assert tasks["arrhythmia"]["constant"]["f1_macro"] == pytest.approx(2 * share / (1 + share) / 3)
    assert all(math.isfinite(p) for p in constants.prior["arrhythmia"])


def test_a_task_without_labels_is_absent_and_one_class_has_no_auroc(
    example: tuple[pa.Table, dict[str, np.ndarray], Constants],
) -> None:
    labels, predicted, constants = example
    position = labels.schema.get_field_index("sex_female")
    one_class = labels.set_column(position, "sex_female", pa.array([1] * 200, pa.int8()))
    position = labels.schema.get_field_index("age_years")
    table = prediction_table(predicted, one_class.set_column(position, "age_years", pa.nulls(200, pa.float32())), TASKS)
    metrics = evaluate(table, constants, TASKS)
    assert "age" not in metrics["tasks"]
    assert metrics["tasks"]["sex"]["auroc"] is None
    assert metrics["tasks"]["sex"]["auroc_ci"] is None
    assert math.isfinite(score(metrics))
    assert json.loads(report_files(metrics, "t", [])["metrics.json"]) == metrics


def test_a_derived_rr_target_is_marked_and_the_detectors_median_stands_beside(
    example: tuple[pa.Table, dict[str, np.ndarray], Constants],
) -> None:
    labels, predicted, constants = example
    source = labels.schema.get_field_index("rr_source")
    derived = labels.set_column(source, "rr_source", pa.array(["detected"] * 200))
    table = prediction_table(predicted, derived, TASKS, rr_detected_ms=labels["rr_label_ms"])
    metrics = evaluate(table, constants, TASKS, intervals=False)
    assert metrics["tasks"]["rr"]["note"] == DERIVED_TARGET
    assert metrics["tasks"]["rr"]["median_detected_rr"]["mae"] == 0
    assert DERIVED_TARGET in text_table(metrics, "title", ["a note"])


def test_intervals_hold_the_estimate_and_widen_when_patients_repeat() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 1, 300)
    predicted = truth + generator.normal(0, 1, 300)
    # Ten records of each patient that are all the same: a tenth of the information.
    repeated = np.repeat(np.arange(30), 10)
    few, many = truth[:30][repeated], predicted[:30][repeated]
    by_patient = patient_intervals(regression, few, many, repeated, seed=0)["mae_ci"]
    by_record = patient_intervals(regression, few, many, np.arange(300), seed=0)["mae_ci"]
    assert by_patient is not None
    assert by_record is not None
    assert by_patient[0] < regression(few, many)["mae"] < by_patient[1]
    assert (by_patient[1] - by_patient[0]) > 2 * (by_record[1] - by_record[0])


def test_a_patient_is_drawn_with_all_its_records() -> None:
    patient = np.array([3, 1, 3, 2, 1, 3])
    for rows in patient_samples(patient, 20, seed=1):
        counts = np.bincount(rows, minlength=6)
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        error = generator.normal(0, 1, 120)
        interval = patient_intervals(regression, error, np.zeros(120), np.arange(120), seed=trial, resamples=200)["mae_ci"]
        assert interval is not None
        # The mean of a half-normal distribution.
        hits += interval[0] <= math.sqrt(2 / math.pi) <= interval[1]
    # 0.95 of 200 with a standard error of 3; a percentile interval of 120 records is a little narrow.
    assert 178 <= hits <= 199


def test_score_is_zero_for_the_constant_and_one_for_perfection() -> None:
    constant = {"tasks": {"age": {"mae": 4.0, "constant": {"mae": 4.0}}, "sex": {"auroc": 0.5, "constant": {}}}}
    perfect = {"tasks": {"age": {"mae": 0.0, "constant": {"mae": 4.0}}, "sex": {"auroc": 1.0, "constant": {}}}}
    assert score(constant) == 0
    assert score(perfect) == 1
    with pytest.raises(ValueError, match="nothing can be measured"):
        score({"tasks": {}})
