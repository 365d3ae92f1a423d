"""Metrics of the five tasks from a predictions file, with the constant and other predictors beside them.

Macro-F1 is the mean over the classes that occur among the labels of the split: a class that nobody has could only be
scored 0, which says more about the split than about the model. The constant is measured alike. The score, 0 for the
constant and 1 for perfection, chooses the best checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from sklearn import metrics as sk

from ecgmoe.evaluation.bootstrap import LIMITS_SD, SPECIFICITY, paired_intervals, patient_intervals, weighted_ece
from ecgmoe.evaluation.columns import DECISION_THRESHOLD, DETECTED_RR
from ecgmoe.evaluation.constant import Constants, prior_of
from ecgmoe.evaluation.known import known_arrays
from ecgmoe.tasks import Kind, Task

DERIVED_TARGET = "target derived from the input"
Values = npt.NDArray[Any]
Metrics = dict[str, float | None]


def evaluate(
    predictions: pa.Table,
    constants: Constants,
    tasks: Sequence[Task],
    *,
    beside: Mapping[str, Mapping[str, Values]] | None = None,
    intervals: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of every task that has labels.

    Args:
        predictions: as `evaluation.predictions.prediction_table` makes it.
        constants: fitted on the training split.
        tasks: those of the model.
        beside: other predictors by name: their predictions by task, for every row of `predictions`.
        intervals: add 95 % patient-level bootstrap intervals ("<metric>_ci": [low, high]).
        seed: of the bootstrap.

    Returns:
        {"tasks": {task: {"n", metrics..., "constant": {metrics...}, "beside": {name: {metrics..., differences...}}}}}; a
        metric that is not defined (AUROC of one class only) is None, so is a predictor that has no predictions of a task,
        and a task without labels is absent.

    Raises:
        ValueError: a prediction is missing or not finite.
    """
    result: dict[str, Any] = {}
    for task in tasks:
        rows, truth, predicted, patient = known_arrays(task, predictions)
        if not len(truth) or (task.name not in constants.median and task.name not in constants.prior):
            continue
        constant = _constant(task, constants, len(truth))
        measure = MEASURES[task.kind]
        entry: dict[str, Any] = {"n": len(truth), **measure(truth, predicted)}
        if intervals:
            entry |= patient_intervals(task.kind, truth, predicted, patient, seed=seed)
        entry["constant"] = measure(truth, constant)
        if task.kind == "binary":
            # The best constant for the F1 of class 1 says 1 every time, even where 0 is the commoner class.
            entry["constant"]["f1_binary"] = measure(truth, np.ones(len(truth)))["f1_binary"]
        for name, values in (beside or {}).items():
            others = entry.setdefault("beside", {})
            if task.name not in values:
                others[name] = None
                continue
            other = values[task.name][rows]
            others[name] = _compared(measure, truth, predicted, other)
            if intervals:
                others[name] |= paired_intervals(task.kind, truth, predicted, other, patient, seed=seed)
        if task.name == "rr":
            entry |= _rr_context(predictions.filter(pa.array(rows)), truth, predicted, seed if intervals else None)
        result[task.name] = entry
    return {"tasks": result}


def _constant(task: Task, constants: Constants, records: int) -> Values:
    """The constant's predictions, as `MEASURES` takes them."""
    if task.kind == "multiclass":
        return prior_of(constants, task, records)
    return np.full(records, constants.median[task.name] if task.kind == "regression" else constants.prior[task.name][1])


def _compared(measure: Callable[[Values, Values], Metrics], truth: Values, predicted: Values, other: Values) -> Metrics:
    """Metrics of another predictor, and "<metric>_difference": the model's minus that."""
    model, values = measure(truth, predicted), measure(truth, other)
    pairs = {name: (model[name], value) for name, value in values.items()}
    differences = {
        f"{name}_difference": None if one is None or two is None else one - two for name, (one, two) in pairs.items()
    }
    return values | differences


def _rr_context(known: pa.Table, truth: Values, predicted: Values, seed: int | None) -> dict[str, Any]:
    """The detector's median as a baseline, and the note where labels are that median.

    Where labels are others, with the model's MAE minus the median's, on the records that have one, and its paired interval.
    """
    context: dict[str, Any] = {}
    derived = pc.any(pc.equal(known["rr_source"], "detected")).as_py()
    if DETECTED_RR in known.column_names:
        detected = known[DETECTED_RR].to_numpy().astype(np.float64)
        there = np.isfinite(detected)
        if there.any():
            found: dict[str, Any] = {"mae": float(np.abs(detected - truth)[there].mean()), "n": int(there.sum())}
            if not derived:
                found["mae_difference"] = float(np.abs(predicted - truth)[there].mean()) - found["mae"]
            if not derived and seed is not None:
                of = truth[there], predicted[there], detected[there], known["patient_id"].to_numpy()[there]
                found["mae_difference_ci"] = paired_intervals("regression", *of, seed=seed)["mae_difference_ci"]
            context["median_detected_rr"] = found
    if derived:
        context["note"] = DERIVED_TARGET
    return context


def regression(truth: Values, predicted: Values) -> Metrics:
    """MAE, RMSE, bias and limits of agreement in the unit of the label (`bootstrap.weighted_regression` defines them)."""
    error = predicted - truth
    bias, spread = float(error.mean()), float(error.std(ddof=1)) if len(error) > 1 else 0.0
    return {
        "mae": float(sk.mean_absolute_error(truth, predicted)),
        "rmse": float(sk.root_mean_squared_error(truth, predicted)),
        "bias": bias,
        "loa_low": bias - LIMITS_SD * spread,
        "loa_high": bias + LIMITS_SD * spread,
    }


def binary(truth: Values, probability: Values) -> Metrics:
    """AUROC, AUPRC, sensitivity at a specificity of 0.9, macro-F1, F1 of class 1 and ECE.

    The first three are None where there is one class only.
    """
    both = 0 < truth.sum() < len(truth)
    decided = (probability >= DECISION_THRESHOLD).astype(int)
    return {
        "auroc": float(sk.roc_auc_score(truth, probability)) if both else None,
        "auprc": float(sk.average_precision_score(truth, probability)) if both else None,
        "sensitivity_at_90_specificity": sensitivity(truth, probability) if both else None,
        "f1_macro": float(sk.f1_score(truth, decided, average="macro", labels=np.unique(truth), zero_division=0)),
        "f1_binary": float(sk.f1_score(truth, decided, zero_division=0)),
        "ece": expected_calibration_error(truth, probability),
    }


def sensitivity(truth: Values, probability: Values) -> float:
    """The highest sensitivity among thresholds with a specificity of at least `SPECIFICITY`."""
    false_positives, true_positives, _ = sk.roc_curve(truth, probability, drop_intermediate=False)
    # The rates are ratios of counts: this much is below any step of them.
    return float(true_positives[false_positives <= 1 - SPECIFICITY + 1e-12].max())


def expected_calibration_error(right: Values, confidence: Values) -> float:
    """Mean gap between confidence and frequency over 15 bins of equal width, 0 for a calibrated predictor.

    Args:
        right: (n,) 1 where what the confidence is of came true.
        confidence: (n,) probabilities.
    """
    return float(weighted_ece(confidence, right, np.ones((1, len(right))))[0])


def multiclass(truth: Values, probabilities: Values) -> Metrics:
    """Accuracy, macro-F1 over the classes among the labels, log-loss, and ECE of the likeliest class."""
    decided = probabilities.argmax(1)
    return {
        "accuracy": float(sk.accuracy_score(truth, decided)),
        "f1_macro": float(sk.f1_score(truth, decided, average="macro", labels=np.unique(truth), zero_division=0)),
        "log_loss": float(sk.log_loss(truth, probabilities, labels=np.arange(probabilities.shape[1]))),
        "ece": expected_calibration_error(decided == truth, probabilities.max(1)),
    }


MEASURES: dict[Kind, Callable[[Values, Values], Metrics]] = {
    "regression": regression,
    "binary": binary,
    "multiclass": multiclass,
}


def score(metrics: Mapping[str, Any]) -> float:
    """Mean skill over the tasks, for choosing a checkpoint on validation.

    Regression: 1 - MAE / constant's MAE. Binary: 2 AUROC - 1. Multiclass: 1 - log-loss / prior's log-loss. So a
    constant has 0. Tasks without labels, and undefined metrics, are left out.

    Raises:
        ValueError: no task has labels.
    """
    skills = []
    for values in metrics["tasks"].values():
        if "mae" in values:
            skills.append(_ratio(values["mae"], values["constant"]["mae"]))
        elif "log_loss" in values:
            skills.append(_ratio(values["log_loss"], values["constant"]["log_loss"]))
        elif values["auroc"] is not None:
            skills.append(2 * values["auroc"] - 1)
    skills = [skill for skill in skills if math.isfinite(skill)]
    if not skills:
        raise ValueError("no task has a label in this split: nothing can be measured")
    return float(np.mean(skills))


def _ratio(value: float, constant: float) -> float:
    return 1 - value / constant if constant > 0 else math.nan
