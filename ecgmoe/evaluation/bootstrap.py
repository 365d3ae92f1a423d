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

LIMITS_SD = 1.96
"""Standard deviations of the error to either side of the bias, within which 95 % of normal errors lie."""

SPECIFICITY = 0.9
"""At which the sensitivity is read off the ROC curve."""

ECE_BINS = 15
"""Bins of the expected calibration error: as many as Guo et al. (ICML 2017) took."""

Values = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Interval = list[float] | None


def patient_intervals(
    kind: Kind,
    truth: Values,
    predicted: Values,
    patient: npt.NDArray[np.int64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Percentile intervals of every metric of a kind of task, as "<metric>_ci": [low, high].

    Args:
        kind: of the task.
        truth: (n,) labels.
        predicted: (n,) values or probabilities of class 1, or (n, c) probabilities.
        patient: (n,) patient of each record.
        seed: of the draw.
        resamples: number of resamples.
    """
    found = resampled(
        lambda weights: WEIGHTED[kind](truth, predicted, weights), patient, seed=seed, resamples=resamples
    )
    return {f"{name}_ci": interval(values) for name, values in found.items()}


def paired_intervals(
    kind: Kind,
    truth: Values,
    first: Values,
    second: Values,
    patient: npt.NDArray[np.int64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Intervals of first - second for every metric, as "<metric>_difference_ci": both see the same resamples.

    What is hard for both predictors cancels, so it is narrower than two intervals side by side suggest. Arguments are
    those of `patient_intervals`, with two predictions in place of one.
    """

    def difference(weights: Floats) -> dict[str, Floats]:
        one, other = (WEIGHTED[kind](truth, predicted, weights) for predicted in (first, second))
        return {name: one[name] - other[name] for name in one}

    found = resampled(difference, patient, seed=seed, resamples=resamples)
    return {f"{name}_difference_ci": interval(values) for name, values in found.items()}


def resampled(
    measure: Callable[[Floats], dict[str, Floats]],
    patient: npt.NDArray[np.int64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Floats]:
    """Metrics of every resample of the patients, by name: (resamples, ...).

    Args:
        measure: takes weights (r, n) and gives metrics (r, ...).
        patient: (n,) patient of each record.
        seed: of the draw.
        resamples: their number.
    """
    blocks = [measure(weights) for weights in patient_weights(patient, resamples, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval(values: Floats) -> Interval:
    """Percentiles of a metric (resamples,) over those in which it is defined; None where it is in none."""
    defined = values[np.isfinite(values)]
    tails = [(1 - LEVEL) / 2 * 100, (1 + LEVEL) / 2 * 100]
    return [float(bound) for bound in np.percentile(defined, tails)] if len(defined) else None


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
    """MAE, RMSE, bias (mean of predicted - truth) and 95 % limits of agreement of each resample, each (r,).

    Limits of agreement: Bland and Altman, Lancet 1986.
    """
    error = predicted - truth
    bias, square = weighted_mean(error, weights), weighted_mean(error**2, weights)
    total = weights.sum(1)
    # One record alone has no spread: its limits are its error.
    spread = np.sqrt(np.clip(square - bias**2, 0, None) * total / np.maximum(total - 1, 1))
    return {
        "mae": weighted_mean(np.abs(error), weights),
        "rmse": np.sqrt(square),
        "bias": bias,
        "loa_low": bias - LIMITS_SD * spread,
        "loa_high": bias + LIMITS_SD * spread,
    }


def weighted_binary(truth: Values, probability: Values, weights: Floats) -> dict[str, Floats]:
    """AUROC, AUPRC, sensitivity at a specificity of 0.9, macro-F1, F1 of class 1 and ECE; each (r,).

    The first three are NaN where a resample has one class only.
    """
    f1, there, _, _ = _f1(
        truth[:, None] == [0, 1], (probability >= DECISION_THRESHOLD)[:, None] == [False, True], weights
    )
    return _ranking(truth, probability, weights) | {
        "f1_macro": _macro(f1, there),
        "f1_binary": f1[:, 1],
        "ece": weighted_ece(probability, truth, weights),
    }


def weighted_multiclass(truth: Values, probabilities: Values, weights: Floats) -> dict[str, Floats]:
    """Accuracy, macro-F1 over the classes among a resample's labels, log-loss, and ECE of the likeliest class; each (r,)."""
    decided = probabilities.argmax(1)
    classes = np.unique(truth)
    f1, there, _, _ = _f1(truth[:, None] == classes, decided[:, None] == classes, weights)
    likelihood = probabilities[np.arange(len(truth)), truth]
    return {
        "accuracy": weighted_mean(decided == truth, weights),
        "f1_macro": _macro(f1, there),
        # The bound is scikit-learn's.
        "log_loss": weighted_mean(-np.log(np.clip(likelihood, np.finfo(np.float64).eps, 1)), weights),
        "ece": weighted_ece(probabilities.max(1), decided == truth, weights),
    }


def weighted_classes(truth: Values, probabilities: Values, weights: Floats) -> dict[str, Floats]:
    """Sensitivity, precision and F1 of every class; each (r, c).

    Sensitivity is NaN where a resample has no such label, precision where nothing is taken for that class.
    """
    classes = np.arange(probabilities.shape[1])
    f1, there, found, hits = _f1(truth[:, None] == classes, probabilities.argmax(1)[:, None] == classes, weights)
    undefined = np.full_like(hits, np.nan)
    return {
        "sensitivity": np.divide(hits, there, out=undefined.copy(), where=there > 0),
        "precision": np.divide(hits, found, out=undefined, where=found > 0),
        "f1": f1,
    }


WEIGHTED: dict[Kind, Callable[[Values, Values, Floats], dict[str, Floats]]] = {
    "regression": weighted_regression,
    "binary": weighted_binary,
    "multiclass": weighted_multiclass,
}


def weighted_mean(values: Values, weights: Floats) -> Floats:
    """Mean of (n,) values in each resample (r,)."""
    return weights @ values.astype(np.float64) / weights.sum(1)


def confidence_bins(confidence: Values) -> npt.NDArray[np.bool_]:
    """(n, bins) in which of the `ECE_BINS` bins of equal width each confidence lies."""
    edges = np.linspace(0, 1, ECE_BINS + 1)[1:-1]
    return np.digitize(confidence, edges)[:, None] == np.arange(ECE_BINS)


def weighted_ece(confidence: Values, right: Values, weights: Floats) -> Floats:
    """Expected calibration error (r,): mean gap between confidence and frequency over `ECE_BINS` bins of equal width.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    bins = confidence_bins(confidence)
    gaps = weights @ (bins * (confidence - right)[:, None])
    return np.abs(gaps).sum(1) / weights.sum(1)


def _ranking(truth: Values, probability: Values, weights: Floats) -> dict[str, Floats]:
    """AUROC (a tie counts half), average precision and sensitivity from the weights at each distinct probability."""
    order = np.argsort(-probability, kind="stable")
    starts = np.flatnonzero(np.diff(probability[order], prepend=np.inf))
    ordered, is_positive = weights[:, order], truth[order]
    positive = np.add.reduceat(ordered * is_positive, starts, axis=1)
    negative = np.add.reduceat(ordered * (1 - is_positive), starts, axis=1)
    positives_so_far, negatives_so_far = positive.cumsum(1), negative.cumsum(1)
    positives, negatives = positives_so_far[:, -1], negatives_so_far[:, -1]
    pairs = positives * negatives
    wins = (negative * (positives_so_far - positive / 2)).sum(1)
    records_so_far = positives_so_far + negatives_so_far
    precision = np.divide(positives_so_far, records_so_far, out=np.zeros_like(positive), where=records_so_far > 0)
    # Counts are whole numbers: this much keeps the rounding of the product out of the comparison.
    specific = negatives_so_far <= (1 - SPECIFICITY) * negatives[:, None] + 1e-9
    undefined = np.full(len(weights), np.nan)
    return {
        "auroc": np.divide(wins, pairs, out=undefined.copy(), where=pairs > 0),
        "auprc": np.divide((positive * precision).sum(1), positives, out=undefined.copy(), where=pairs > 0),
        "sensitivity_at_90_specificity": np.divide(
            (positives_so_far * specific).max(1), positives, out=undefined, where=pairs > 0
        ),
    }


def _f1(truth: Values, decided: Values, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """F1 of each class, 0 where it is neither there nor predicted, and weights of labels, predictions and hits; each (r, c).

    Args:
        truth: (n, c) whether the label is the class.
        decided: (n, c) whether the prediction is the class.
        weights: (r, n).
    """
    there, found = weights @ truth.astype(np.float64), weights @ decided.astype(np.float64)
    hits = weights @ (truth & decided).astype(np.float64)
    f1 = np.divide(2 * hits, there + found, out=np.zeros_like(hits), where=there + found > 0)
    return f1, there, found, hits


def _macro(f1: Floats, there: Floats) -> Floats:
    """Mean F1 over the classes that have labels in a resample."""
    return (f1 * (there > 0)).sum(1) / (there > 0).sum(1)
