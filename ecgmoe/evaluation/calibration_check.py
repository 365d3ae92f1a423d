"""What calibration is worth on the split that is reported: errors before and after, and the share that is covered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgmoe.evaluation.bootstrap import Floats, confidence_bins, interval, resampled, weighted_ece, weighted_mean
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.evaluation.known import Known, known_arrays
from ecgmoe.tasks import Task

Values = npt.NDArray[Any]


def calibration_metrics(
    predictions: pa.Table, calibration: Calibration, tasks: Sequence[Task], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """What `calibration` makes of the predictions, by task that it was fitted for and that has labels.

    Args:
        predictions: uncalibrated, as `evaluation.predictions.prediction_table` makes it.
        calibration: fitted on another split.
        tasks: those of the model.
        seed: of the bootstrap.

    Returns:
        By task {"conformal": {"level", "coverage", and "half_width" or "mean_size"}} and, of probabilities, {"temperature",
        "ece" and "log_loss" after calibration, "reliability": {"model": [...], "calibrated": [...]}}; measures have
        patient-level intervals ("<measure>_ci").
    """
    result: dict[str, dict[str, Any]] = {}
    for task in tasks:
        known = known_arrays(task, predictions)
        if not len(known.truth) or task.name not in calibration.patients:
            continue
        if task.kind == "regression":
            width = calibration.half_width[task.name]
            covered = np.abs(known.predicted - known.truth) <= width
            found = with_intervals({"coverage": covered}, known, seed)
            result[task.name] = {"conformal": {"level": calibration.level, "half_width": width, **found}}
            continue
        result[task.name] = _of_probabilities(task, known, calibration, seed)
    return result


def _of_probabilities(task: Task, known: Known, calibration: Calibration, seed: int) -> dict[str, Any]:
    after = calibration.probabilities(task, known.predicted)
    (before_confidence, right), (confidence, _) = (confidences(p, known.truth) for p in (known.predicted, after))
    likelihood = (
        after[np.arange(len(after)), known.truth] if after.ndim == 2 else np.where(known.truth == 1, after, 1 - after)
    )
    loss = -np.log(np.clip(likelihood, np.finfo(np.float64).eps, 1))

    ece = resampled(lambda weights: {"ece": weighted_ece(confidence, right, weights)}, known.patient_id, seed=seed)[
        "ece"
    ]
    entry: dict[str, Any] = {
        "temperature": calibration.temperature[task.name],
        "ece": float(weighted_ece(confidence, right, np.ones((1, len(right))))[0]),
        "ece_ci": interval(ece),
        **with_intervals({"log_loss": loss}, known, seed),
        "reliability": {"model": reliability(before_confidence, right), "calibrated": reliability(confidence, right)},
    }
    sets = calibration.sets(task, after) if task.kind == "multiclass" else None
    if sets is not None:
        measures = {"coverage": sets[np.arange(len(sets)), known.truth], "mean_size": sets.sum(1)}
        entry["conformal"] = {"level": calibration.level, **with_intervals(measures, known, seed)}
        entry["conformal"]["sizes"] = np.bincount(sets.sum(1), minlength=sets.shape[1] + 1)[1:].tolist()
        entry["conformal"]["classes"] = {
            task.classes[label]: {"n": int(there.sum()), "coverage": float(measures["coverage"][there].mean())}
            for label in np.unique(known.truth)
            for there in [known.truth == label]
        }
    return entry


def with_intervals(measures: dict[str, Values], known: Known, seed: int) -> dict[str, Any]:
    """Means of (n,) values over the records, each with its patient-level interval."""
    drawn = resampled(
        lambda weights: {name: weighted_mean(values, weights) for name, values in measures.items()},
        known.patient_id,
        seed=seed,
    )
    found: dict[str, Any] = {}
    for name, values in measures.items():
        found |= {name: float(values.mean()), f"{name}_ci": interval(drawn[name])}
    return found


def confidences(probabilities: Values, truth: Values) -> tuple[Floats, Floats]:
    """(n,) what is claimed, and whether it came true: of class 1 for (n,) probabilities, of the likeliest class for (n, c)."""
    if probabilities.ndim == 1:
        return probabilities, truth.astype(np.float64)
    return probabilities.max(1), (probabilities.argmax(1) == truth).astype(np.float64)


def reliability(confidence: Floats, right: Floats) -> list[dict[str, float]]:
    """The bins of the calibration error that hold records: mean confidence, frequency, and number of records."""
    return [
        {"confidence": float(confidence[own].mean()), "frequency": float(right[own].mean()), "n": int(own.sum())}
        for own in confidence_bins(confidence).T
        if own.any()
    ]
