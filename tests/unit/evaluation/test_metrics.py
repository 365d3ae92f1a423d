"""Metrics against scikit-learn and hand computation, on a predictions file with everything that can be missing."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import DERIVED_TARGET, evaluate, score
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.evaluation.report import report_files, text_table
from ecgmoe.tasks import task_table

TASKS = task_table()
Example = tuple[pa.Table, dict[str, np.ndarray], Constants]


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
            "cart_id": pa.array(generator.integers(1, 4, n), mask=generator.random(n) < 0.1),
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
def example() -> Example:
    labels = label_rows(200, 0)
    return labels, values(200, 1), Constants.fit(label_rows(500, 2), TASKS)


def by_bins(confidence: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error as its definition reads."""
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return float(sum(gaps))


def test_every_metric_is_scikit_learns(example: Example) -> None:
    labels, predicted, constants = example
    tasks = evaluate(prediction_table(predicted, labels, TASKS), constants, TASKS, intervals=False)["tasks"]
    rr = labels["rr_label_ms"].to_numpy().astype(np.float64)
    assert tasks["rr"]["mae"] == pytest.approx(np.abs(rr - predicted["rr"].astype(np.float64)).mean(), abs=1e-9)
    error = predicted["rr"].astype(np.float64) - rr
    assert tasks["rr"]["rmse"] == pytest.approx(math.sqrt(sum(error**2) / 200), abs=1e-9)
    assert tasks["rr"]["bias"] == pytest.approx(sum(error) / 200, abs=1e-9)
    spread = math.sqrt(sum((error - error.mean()) ** 2) / 199)
    assert tasks["rr"]["loa_low"] == pytest.approx(error.mean() - 1.96 * spread, abs=1e-9)
    assert tasks["rr"]["loa_high"] == pytest.approx(error.mean() + 1.96 * spread, abs=1e-9)
    known = labels["potassium_abnormal"].is_valid().to_numpy()
    truth = labels["potassium_abnormal"].to_numpy()[known].astype(int)
    p = predicted["potassium"][known].astype(np.float64)
    # Every threshold that is a prediction, or above all of them, whose specificity is at least 0.9.
    allowed = [t for t in [*p, 2] if 10 * ((p >= t) & (truth == 0)).sum() <= (truth == 0).sum()]
    expected = {
        "sensitivity_at_90_specificity": max((p >= t)[truth == 1].mean() for t in allowed),
        "ece": by_bins(p, truth),
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
    # scikit-learn wants rows that sum to 1, which fp32 ones do only to rounding.
    p /= p.sum(1, keepdims=True)
    assert tasks["arrhythmia"]["log_loss"] == pytest.approx(log_loss(truth, p, labels=range(15)), abs=1e-9)
    assert tasks["arrhythmia"]["ece"] == pytest.approx(by_bins(p.max(1), p.argmax(1) == truth), abs=1e-9)
    f1 = f1_score(truth, p.argmax(1), average="macro", labels=[11, 13, 14])
    assert tasks["arrhythmia"]["f1_macro"] == pytest.approx(f1, abs=1e-9)


def test_the_constant_is_the_best_one_of_the_training_split(example: Example) -> None:
    labels, predicted, constants = example
    tasks = evaluate(prediction_table(predicted, labels, TASKS), constants, TASKS, intervals=False)["tasks"]
    train = label_rows(500, 2)
    median = np.median(train["age_years"].to_numpy())
    error = np.abs(labels["age_years"].to_numpy().astype(np.float64) - median).mean()
    assert tasks["age"]["constant"]["mae"] == pytest.approx(error, abs=1e-9)
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
    example: Example,
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
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_a_derived_rr_target_is_marked_and_the_detectors_median_stands_beside(
    example: Example,
) -> None:
    labels, predicted, constants = example
    source = labels.schema.get_field_index("rr_source")
    derived = labels.set_column(source, "rr_source", pa.array(["detected"] * 200))
    table = prediction_table(predicted, derived, TASKS, rr_detected_ms=labels["rr_label_ms"])
    metrics = evaluate(table, constants, TASKS, intervals=False)
    assert metrics["tasks"]["rr"]["note"] == DERIVED_TARGET
    # Against itself a detector is not measured.
    assert metrics["tasks"]["rr"]["median_detected_rr"] == {
        "mae": 0,
        "n": int(labels["rr_label_ms"].is_valid().to_numpy().sum()),
    }
    assert DERIVED_TARGET in text_table(metrics, "title", ["a note"])


def test_where_rr_is_a_label_of_its_own_the_model_is_compared_with_the_detector(example: Example) -> None:
    labels, predicted, constants = example
    truth = labels["rr_label_ms"].to_numpy().astype(np.float64)
    detected = truth + 3.0
    detected[:20] = np.nan
    at = pa.array(detected, pa.float32(), mask=np.isnan(detected))
    metrics = evaluate(prediction_table(predicted, labels, TASKS, rr_detected_ms=at), constants, TASKS)
    found = metrics["tasks"]["rr"]["median_detected_rr"]
    both = np.isfinite(truth) & np.isfinite(detected)
    expected = np.abs(predicted["rr"] - truth)[both].mean() - 3
    assert found["n"] == both.sum()
    assert found["mae_difference"] == pytest.approx(expected, rel=1e-3)
    low, high = found["mae_difference_ci"]
    assert low < found["mae_difference"] < high
    assert "minus that of the detector's median" in text_table(metrics, "title")
    csv = report_files(metrics, "title", [])["metrics.csv"]
    assert f"rr,mae,ms,lower,model - median_detected_rr,{found['n']}," in csv


def test_every_metric_has_an_interval_around_it_and_all_of_it_is_json(example: Example) -> None:
    labels, predicted, constants = example
    metrics = evaluate(prediction_table(predicted, labels, TASKS), constants, TASKS)
    for task, entry in metrics["tasks"].items():
        for name in entry["constant"]:
            low, high = entry[f"{name}_ci"]
            assert low < entry[name] < high, (task, name)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_the_linear_baseline_is_measured_on_the_same_records(example: Example) -> None:
    labels, predicted, constants = example
    other = {name: each.astype(np.float64) for name, each in values(200, 5).items()}
    other["arrhythmia"] /= other["arrhythmia"].sum(1, keepdims=True)
    table = prediction_table(predicted, labels, TASKS)
    del other["sex"]
    metrics = evaluate(table, constants, TASKS, beside={"linear": other})
    # What it would have as a model; records without a label count for neither.
    alone = evaluate(prediction_table({**predicted, **other}, labels, TASKS), constants, TASKS)
    assert metrics["tasks"]["sex"]["beside"]["linear"] is None
    for task in ("rr", "age", "potassium", "arrhythmia"):
        entry = metrics["tasks"][task]
        for name in entry["constant"]:
            assert entry["beside"]["linear"][name] == pytest.approx(alone["tasks"][task][name], abs=1e-6), (task, name)
            difference = entry[name] - entry["beside"]["linear"][name]
            assert entry["beside"]["linear"][f"{name}_difference"] == pytest.approx(difference)
            low, high = entry["beside"]["linear"][f"{name}_difference_ci"]
            assert low < difference < high
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    without = evaluate(table, constants, TASKS)
    assert not any("beside" in entry for entry in without["tasks"].values())
    assert score(without) == score(metrics)


def test_a_difference_is_not_defined_where_a_metric_is_not(example: Example) -> None:
    labels, predicted, constants = example
    one_class = labels.set_column(
        labels.schema.get_field_index("sex_female"), "sex_female", pa.array([1] * 200, pa.int8())
    )
    table = prediction_table(predicted, one_class, TASKS)
    linear = evaluate(table, constants, TASKS, beside={"linear": {"sex": np.full(200, 0.7)}})["tasks"]["sex"]["beside"][
        "linear"
    ]
    assert linear["auroc"] is linear["auroc_difference"] is linear["auroc_difference_ci"] is None
    assert linear["f1_binary"] == 1


def test_intervals_are_quick() -> None:
    labels, predicted = label_rows(2000, 3), values(2000, 4)
    started = time.process_time()
    evaluate(
        prediction_table(predicted, labels, TASKS), Constants.fit(labels, TASKS), TASKS, beside={"linear": predicted}
    )
    # A second on one core; scikit-learn in a loop over the resamples takes minutes.
    assert time.process_time() - started < 10


@pytest.mark.parametrize("task", ["age", "sex", "arrhythmia"])
def test_a_prediction_that_is_not_finite_is_refused(example: Example, task: str) -> None:
    labels, predicted, constants = example
    broken = predicted[task].copy()
    broken[[3, 8]] = np.nan
    table = prediction_table({**predicted, task: broken}, labels, TASKS)
    with pytest.raises(ValueError, match=f"2 of 200 predictions of the task {task} are missing or not finite"):
        evaluate(table, constants, TASKS, intervals=False)


def test_a_record_without_a_label_may_have_any_prediction(example: Example) -> None:
    labels, predicted, constants = example
    unlabelled = ~labels["potassium_abnormal"].is_valid().to_numpy()
    broken = np.where(unlabelled, np.nan, predicted["potassium"]).astype(np.float32)
    once = evaluate(prediction_table(predicted, labels, TASKS), constants, TASKS, intervals=False)
    again = evaluate(
        prediction_table({**predicted, "potassium": broken}, labels, TASKS), constants, TASKS, intervals=False
    )
    assert once == again


def test_macro_f1_leaves_out_a_class_that_is_only_predicted() -> None:
    # Labels 11, 11, 13; predictions 11, 14, 13: F1 of 11 is 2/3, of 13 is 1, and 14 has no label.
    labels = label_rows(3, 0).set_column(8, "rhythm15", pa.array([11, 11, 13], pa.int8()))
    probabilities = np.full((3, 15), 0.02, np.float32)
    probabilities[[0, 1, 2], [11, 14, 13]] = 0.72
    task = task_table(("arrhythmia",))
    table = prediction_table({"arrhythmia": probabilities}, labels, task)
    entry = evaluate(table, Constants.fit(labels, task), task, intervals=False)["tasks"]["arrhythmia"]
    assert entry["f1_macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert entry["accuracy"] == pytest.approx(2 / 3)
    # The constant says 11: F1 0.8 there, 0 for 13, over the same two classes.
    assert entry["constant"]["f1_macro"] == pytest.approx(0.4)
    assert entry["log_loss"] == pytest.approx(-(2 * math.log(0.72) + math.log(0.02)) / 3, abs=1e-6)


def test_the_best_single_class_for_macro_f1_is_the_commonest_one() -> None:
    truth = np.repeat([0, 1, 2], [5, 9, 6])
    macro = [f1_score(truth, np.full(20, c), average="macro", labels=[0, 1, 2], zero_division=0) for c in range(3)]
    assert int(np.argmax(macro)) == int(np.bincount(truth).argmax())


def test_a_class_that_training_never_saw_has_a_finite_log_loss() -> None:
    train = label_rows(100, 0)
    unseen = label_rows(4, 1).set_column(8, "rhythm15", pa.array([0, 1, 2, 3], pa.int8()))
    task = task_table(("arrhythmia",))
    table = prediction_table({"arrhythmia": np.full((4, 15), 1 / 15, np.float32)}, unseen, task)
    entry = evaluate(table, Constants.fit(train, task), task, intervals=False)["tasks"]["arrhythmia"]
    # One is added to each of the 15 counts.
    assert entry["constant"]["log_loss"] == pytest.approx(math.log(115))


def test_score_is_zero_for_the_constant_and_one_for_perfection() -> None:
    constant = {"tasks": {"age": {"mae": 4.0, "constant": {"mae": 4.0}}, "sex": {"auroc": 0.5, "constant": {}}}}
    perfect = {"tasks": {"age": {"mae": 0.0, "constant": {"mae": 4.0}}, "sex": {"auroc": 1.0, "constant": {}}}}
    assert score(constant) == 0
    assert score(perfect) == 1
    with pytest.raises(ValueError, match="nothing can be measured"):
        score({"tasks": {}})
