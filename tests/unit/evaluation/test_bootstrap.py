"""Intervals by patient: the weighted metrics against scikit-learn, the draw, and the coverage of the intervals."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as sk

from ecgmoe.evaluation import bootstrap
from ecgmoe.evaluation.bootstrap import (
    WEIGHTED,
    interval,
    paired_intervals,
    patient_intervals,
    patient_weights,
    resampled,
)
from ecgmoe.evaluation.metrics import MEASURES
from ecgmoe.tasks import Kind

# Sums in another order: some hundred additions of numbers of order 1 in fp64.
ROUNDING = 1e-9


def problem(kind: Kind, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions with ties, a rare class and probabilities of zero."""
    generator = np.random.default_rng(seed)
    if kind == "regression":
        return generator.normal(60, 10, n), generator.normal(60, 10, n)
    if kind == "binary":
        return (generator.random(n) < 0.2).astype(float), np.round(generator.random(n), 1)
    probabilities = generator.dirichlet(np.ones(15), n)
    probabilities[:3] = np.eye(15)[0]
    return generator.choice([2, 5, 9, 14], n, p=[0.6, 0.3, 0.08, 0.02]), probabilities


def ece(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray) -> float:
    """Bin by bin, as its definition reads."""
    confidence, right = (np.repeat(each, weights.astype(int)) for each in (confidence, right))
    total = 0.0
    for low, high in pairwise(np.linspace(0, 1, 16)):
        inside = (confidence >= low) & ((confidence < high) | (high == 1))
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


def by_scikit_learn(kind: Kind, truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Metrics of one resample through scikit-learn's own sample weights."""
    weighted: dict[str, Any] = {"sample_weight": weights}
    present = np.unique(truth[weights > 0])
    macro: dict[str, Any] = {**weighted, "average": "macro", "labels": present, "zero_division": 0}
    if kind == "regression":
        error = np.repeat(predicted - truth, weights.astype(int))
        bias, spread = error.mean(), error.std(ddof=1)
        return {
            "mae": sk.mean_absolute_error(truth, predicted, **weighted),
            "rmse": sk.root_mean_squared_error(truth, predicted, **weighted),
            "bias": bias,
            "loa_low": bias - 1.96 * spread,
            "loa_high": bias + 1.96 * spread,
        }
    if kind == "binary":
        decided = (predicted >= 0.5).astype(float)
        one_class = len(present) == 1
        false, true, _ = sk.roc_curve(truth, predicted, sample_weight=weights, drop_intermediate=False)
        return {
            "sensitivity_at_90_specificity": math.nan if one_class else true[false <= 0.1 + 1e-12].max(),
            "ece": ece(predicted, truth, weights),
            "auroc": math.nan if one_class else sk.roc_auc_score(truth, predicted, **weighted),
            "auprc": math.nan if one_class else sk.average_precision_score(truth, predicted, **weighted),
            "f1_macro": sk.f1_score(truth, decided, **macro),
            "f1_binary": sk.f1_score(truth, decided, zero_division=0, **weighted),
        }
    decided = predicted.argmax(1)
    return {
        "ece": ece(predicted.max(1), decided == truth, weights),
        "accuracy": sk.accuracy_score(truth, decided, **weighted),
        "f1_macro": sk.f1_score(truth, decided, **macro),
        "log_loss": sk.log_loss(truth, predicted, labels=np.arange(15), **weighted),
    }


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_every_resample_has_scikit_learns_metrics(kind: Kind) -> None:
    # Patients with one to four records, and a class that one patient alone has: a third of the resamples lose it.
    patient = np.repeat(np.arange(6), [3, 2, 1, 4, 1, 3])
    truth, predicted = problem(kind, len(patient), seed=3)
    if kind != "regression":
        truth = np.where(patient == 5, 1, 0)
    weights = np.concatenate(list(patient_weights(patient, 60, seed=1)))
    assert 10 < (weights[:, -1] == 0).sum() < 30
    found = WEIGHTED[kind](truth, predicted, weights)
    for row, each in enumerate(weights):
        expected = by_scikit_learn(kind, truth, predicted, each)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, abs=ROUNDING, nan_ok=True), (row, name)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_weights_of_one_give_the_metrics_of_the_split(kind: Kind) -> None:
    truth, predicted = problem(kind, 300, seed=7)
    found = WEIGHTED[kind](truth, predicted, np.ones((1, 300)))
    expected = MEASURES[kind](truth, predicted)
    assert {name: values[0] for name, values in found.items()} == pytest.approx(expected, abs=ROUNDING)


def test_a_resample_that_loses_a_class_has_no_auroc_and_is_left_out() -> None:
    truth, probability = np.array([1.0, 0.0, 0.0]), np.array([0.9, 0.8, 0.1])
    found = WEIGHTED["binary"](truth, probability, np.array([[0.0, 2, 1], [3, 0, 0], [1, 1, 1]]))
    assert np.isnan(found["auroc"]).tolist() == np.isnan(found["auprc"]).tolist() == [True, True, False]
    intervals = patient_intervals("binary", truth, probability, np.arange(3), seed=0)
    # With a positive drawn at all, it ranks first whatever else was drawn.
    assert intervals["auroc_ci"] == [1.0, 1.0]


def test_a_patient_is_drawn_with_all_its_records() -> None:
    patient = np.array([3, 1, 3, 2, 1, 3])
    weights = np.concatenate(list(patient_weights(patient, 2000, seed=1)))
    assert weights.shape == (2000, 6)
    assert (weights[:, [0, 2]] == weights[:, [5, 5]]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    # As many patients as there are, and each once on average: 2000 draws have a standard error of 0.018.
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()
    assert weights[:, [0, 1, 3]].mean(0) == pytest.approx(1, abs=0.08)


def test_the_draw_does_not_depend_on_the_size_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, predicted = problem("multiclass", 50, seed=2)
    patient = np.arange(50) // 3
    at_once = patient_intervals("multiclass", truth, predicted, patient, seed=4, resamples=100)
    monkeypatch.setattr(bootstrap, "BLOCK_WEIGHTS", 50 * 7)
    in_blocks = patient_intervals("multiclass", truth, predicted, patient, seed=4, resamples=100)
    for name, bounds in at_once.items():
        assert in_blocks[name] == pytest.approx(bounds, abs=ROUNDING)


def test_intervals_widen_when_patients_repeat() -> None:
    truth, predicted = problem("regression", 30, seed=0)
    # Ten records of each patient that are all the same: a tenth of the information, so sqrt(10) times the width.
    repeated = np.repeat(np.arange(30), 10)
    few, many = truth[repeated], predicted[repeated]
    by_patient = patient_intervals("regression", few, many, repeated, seed=0)["mae_ci"]
    by_record = patient_intervals("regression", few, many, np.arange(300), seed=0)["mae_ci"]
    assert by_patient is not None
    assert by_record is not None
    assert by_patient[0] < np.abs(few - many).mean() < by_patient[1]
    assert (by_patient[1] - by_patient[0]) > 2 * (by_record[1] - by_record[0])
    once = patient_intervals("regression", truth, predicted, np.arange(30), seed=0)["mae_ci"]
    assert by_patient == pytest.approx(once, abs=ROUNDING)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_a_paired_interval_is_that_of_the_difference_on_the_same_resamples(kind: Kind) -> None:
    (truth, first), (_, second) = problem(kind, 120, seed=1), problem(kind, 120, seed=2)
    patient = np.arange(120) // 3
    found = paired_intervals(kind, truth, first, second, patient, seed=6, resamples=200)
    weights = np.concatenate(list(patient_weights(patient, 200, seed=6)))
    one, other = (WEIGHTED[kind](truth, predicted, weights) for predicted in (first, second))
    assert set(found) == {f"{name}_difference_ci" for name in one}
    for name in one:
        expected = np.nanpercentile(one[name] - other[name], [2.5, 97.5])
        assert found[f"{name}_difference_ci"] == pytest.approx(expected.tolist(), abs=ROUNDING)
    swapped = paired_intervals(kind, truth, second, first, patient, seed=6, resamples=200)
    low, high = found[f"{name}_difference_ci"] or (math.nan, math.nan)
    assert swapped[f"{name}_difference_ci"] == pytest.approx([-high, -low], abs=ROUNDING)


def test_what_is_hard_for_both_cancels_in_the_difference() -> None:
    truth, predicted = problem("regression", 300, seed=1)
    patient = np.arange(300)
    slightly_worse = truth + (predicted - truth) * 1.05
    same = paired_intervals("regression", truth, predicted, predicted, patient, seed=0)
    assert same["mae_difference_ci"] == [0.0, 0.0]
    difference = paired_intervals("regression", truth, predicted, slightly_worse, patient, seed=0)["mae_difference_ci"]
    alone = patient_intervals("regression", truth, predicted, patient, seed=0)["mae_ci"]
    assert difference is not None
    assert alone is not None
    assert difference[1] < 0
    # The errors differ by a twentieth everywhere, and so do the widths.
    assert (difference[1] - difference[0]) == pytest.approx(0.05 * (alone[1] - alone[0]), rel=1e-6)


def half_normal(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors of which one half is the patient's own: their MAE is sqrt(2 / pi)."""
    own = np.repeat(rng.normal(size=patients), 2)
    return np.zeros(2 * patients), np.sqrt(0.5) * (own + rng.normal(size=2 * patients))


def binormal(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Two normal distributions one standard deviation apart: their AUROC is Phi(1 / sqrt(2))."""
    truth = np.repeat(rng.random(patients) < 0.4, 2).astype(float)
    score = truth + np.sqrt(0.5) * (np.repeat(rng.normal(size=patients), 2) + rng.normal(size=2 * patients))
    return truth, norm.cdf(score)


def four_in_five(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Decisions that are right four times of five, for both records of a patient alike: an accuracy of 0.8."""
    right = np.repeat(rng.random(patients) < 0.8, 2)
    truth = rng.integers(0, 3, 2 * patients)
    return truth, np.eye(3)[np.where(right, truth, (truth + 1) % 3)]


@pytest.mark.parametrize(
    ("draw", "kind", "metric", "true", "patients"),
    [
        (half_normal, "regression", "mae", math.sqrt(2 / math.pi), 200),
        pytest.param(half_normal, "regression", "rmse", 1.0, 400, marks=pytest.mark.long),
        pytest.param(binormal, "binary", "auroc", float(norm.cdf(1 / math.sqrt(2))), 200, marks=pytest.mark.long),
        (four_in_five, "multiclass", "accuracy", 0.8, 200),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    draw: Any, kind: Kind, metric: str, true: float, patients: int
) -> None:
    """In 0.93 to 0.97 of 1,000 draws of patients with two records each (the standard error of 0.95 is 0.007).

    Percentile intervals are narrow for few patients and skewed metrics: that of the RMSE covers 0.926 with 200 patients.
    """
    patient, hits = np.repeat(np.arange(patients), 2), 0
    for trial in range(1000):
        truth, predicted = draw(np.random.default_rng(trial), patients)
        drawn = resampled(
            lambda weights, t=truth, p=predicted: {metric: WEIGHTED[kind](t, p, weights)[metric]},
            patient,
            seed=trial,
            resamples=400,
        )
        low, high = interval(drawn[metric]) or (math.nan, math.nan)
        hits += low <= true <= high
    assert 930 <= hits <= 970
