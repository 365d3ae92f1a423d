"""95 % intervals by resampling patients, because the ECGs of one patient are not independent.

A resample is a vector of weights, how often each record was drawn, so that every metric of a block of resamples is a
few matrix operations. The metrics equal scikit-learn's on the drawn records.

Shapes: n records, r resamples, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgmoe.evaluation.columns import DECISION_THRESHOLD
from ecgmoe.tasks import Kind

RESAMPLES = 1000
LEVEL = 0.95
BLOCK_WEIGHTS = 1 << 22
"""Weights held at a time (32 MiB), so that memory does not grow with the number of records."""

Values = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def patient_intervals(
    kind: Kind,
    truth: Values,
    predicted: Values,
    patient: npt.NDArray[np.int64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, list[float] | None]:
    """Percentile intervals of every metric of a kind of task, as "<metric>_ci": [low, high].

    A resample in which a metric is not defined is left out of its interval; None where that is every resample.

    Args:
        kind: of the task.
        truth: (n,) labels.
        predicted: (n,) values or probabilities of class 1, or (n, c) probabilities.
        patient: (n,) patient of each record.
        seed: of the draw.
        resamples: number of resamples.
    """
    values = resampled(kind, truth, predicted, patient, seed=seed, resamples=resamples)
    return {f"{name}_ci": interval(each) for name, each in values.items()}


def resampled(
    kind: Kind,
    truth: Values,
    predicted: Values,
    patient: npt.NDArray[np.int64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Floats]:
    """Every metric of a kind of task in each resample (r,), the same resamples for the same patients and seed.

    So the difference of two of these is what `paired_intervals` takes its percentiles of. Arguments are those of
    `patient_intervals`.
    """
    blocks = [WEIGHTED[kind](truth, predicted, weights) for weights in patient_weights(patient, resamples, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def paired_intervals(
    kind: Kind,
    truth: Values,
    first: Values,
    second: Values,
    patient: npt.NDArray[np.int64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, list[float] | None]:
    """Intervals of first - second for every metric, as "<metric>_difference_ci": both see the same resamples.

    What is hard for both predictors cancels, so it is narrower than two intervals side by side suggest. Arguments are
    those of `patient_intervals`, with two predictions in place of one.
    """
    blocks = []
    for weights in patient_weights(patient, resamples, seed):
        one, other = (WEIGHTED[kind](truth, predicted, weights) for predicted in (first, second))
        blocks.append({name: one[name] - other[name] for name in one})
    return {f"{name}_difference_ci": interval(np.concatenate([block[name] for block in blocks])) for name in blocks[0]}


def patient_weights(patient: npt.NDArray[np.int64], resamples: int, seed: int) -> Iterator[Floats]:
    """How often each record is in each resample, in blocks (r, n).

    Each resample draws as many patients as there are, with replacement, each with all its records.
    """
    generator = np.random.default_rng(seed)
    unique, inverse = np.unique(patient, return_inverse=True)
    block = max(1, BLOCK_WEIGHTS // len(patient))
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        draws = generator.integers(0, len(unique), (rows, len(unique))) + np.arange(rows)[:, None] * len(unique)
        counts = np.bincount(draws.ravel(), minlength=rows * len(unique)).reshape(rows, len(unique))
        yield counts[:, inverse].astype(np.float64)


def weighted_regression(truth: Values, predicted: Values, weights: Floats) -> dict[str, Floats]:
    """MAE of each resample (r,)."""
    return {"mae": _mean(np.abs(truth - predicted), weights)}


def weighted_binary(truth: Values, probability: Values, weights: Floats) -> dict[str, Floats]:
    """AUROC and AUPRC (NaN where a resample has one class only), macro-F1 and F1 of class 1; each (r,)."""
    f1, there = _f1(truth[:, None] == [0, 1], (probability >= DECISION_THRESHOLD)[:, None] == [False, True], weights)
    return _ranking(truth, probability, weights) | {"f1_macro": _macro(f1, there), "f1_binary": f1[:, 1]}


def weighted_multiclass(truth: Values, probabilities: Values, weights: Floats) -> dict[str, Floats]:
    """Accuracy, macro-F1 over the classes among a resample's labels, and log-loss; each (r,)."""
    decided = probabilities.argmax(1)
    classes = np.unique(truth)
    f1, there = _f1(truth[:, None] == classes, decided[:, None] == classes, weights)
    likelihood = probabilities[np.arange(len(truth)), truth]
    return {
        "accuracy": _mean(decided == truth, weights),
        "f1_macro": _macro(f1, there),
        # The bound is scikit-learn's.
        "log_loss": _mean(-np.log(np.clip(likelihood, np.finfo(np.float64).eps, 1)), weights),
    }


WEIGHTED: dict[Kind, Callable[[Values, Values, Floats], dict[str, Floats]]] = {
    "regression": weighted_regression,
    "binary": weighted_binary,
    "multiclass": weighted_multiclass,
}


def interval(values: Floats) -> list[float] | None:
    """Percentiles of a metric (r,) over the resamples in which it is defined; None where that is none of them."""
    defined = values[np.isfinite(values)]
    tails = [(1 - LEVEL) / 2 * 100, (1 + LEVEL) / 2 * 100]
    return [float(bound) for bound in np.percentile(defined, tails)] if len(defined) else None


def _mean(values: Values, weights: Floats) -> Floats:
    """Weighted mean of (n,) values in each resample."""
    return weights @ values.astype(np.float64) / weights.sum(1)


def _ranking(truth: Values, probability: Values, weights: Floats) -> dict[str, Floats]:
    """AUROC (a tie counts half) and average precision from the weights at each distinct probability, descending."""
    order = np.argsort(-probability, kind="stable")
    starts = np.flatnonzero(np.diff(probability[order], prepend=np.inf))
    ordered, is_positive = weights[:, order], truth[order]
    positive = np.add.reduceat(ordered * is_positive, starts, axis=1)
    negative = np.add.reduceat(ordered * (1 - is_positive), starts, axis=1)
    positives_so_far = positive.cumsum(1)
    positives = positives_so_far[:, -1]
    pairs = positives * negative.sum(1)
    wins = (negative * (positives_so_far - positive / 2)).sum(1)
    records_so_far = positives_so_far + negative.cumsum(1)
    precision = np.divide(positives_so_far, records_so_far, out=np.zeros_like(positive), where=records_so_far > 0)
    undefined = np.full(len(weights), np.nan)
    return {
        "auroc": np.divide(wins, pairs, out=undefined.copy(), where=pairs > 0),
        "auprc": np.divide((positive * precision).sum(1), positives, out=undefined, where=pairs > 0),
    }


def _f1(truth: Values, decided: Values, weights: Floats) -> tuple[Floats, Floats]:
    """F1 of each class, 0 where it is neither there nor predicted, and the weight of its labels; each (r, c).

    Args:
        truth: (n, c) whether the label is the class.
        decided: (n, c) whether the prediction is the class.
        weights: (r, n).
    """
    there, found = weights @ truth.astype(np.float64), weights @ decided.astype(np.float64)
    hits = weights @ (truth & decided).astype(np.float64)
    return np.divide(2 * hits, there + found, out=np.zeros_like(hits), where=there + found > 0), there


def _macro(f1: Floats, there: Floats) -> Floats:
    """Mean F1 over the classes that have labels in a resample."""
    return (f1 * (there > 0)).sum(1) / (there > 0).sum(1)
