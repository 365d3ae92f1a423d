"""Probabilities that mean what they say, and predictions with a guarantee: both fitted on validation, checked on test.

A temperature per task divides the logits (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017). Split
conformal prediction gives an interval around each number and a set of classes that hold the truth for a share `level` of
new patients like those of validation (Papadopoulos et al. 2002; Sadinle, Lei and Wasserman, "Least Ambiguous Set-Valued
Classifiers", JASA 2019). Several ECGs of one patient are not exchangeable with those of others, so a patient counts once:
each of its n records has the weight 1 / n (Dunn, Wasserman and Ramdas, "Distribution-Free Prediction Sets for Two-Layer
Hierarchical Models", JASA 2023, pooling of distributions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.optimize import minimize_scalar

from ecgmoe.config_tools import require
from ecgmoe.evaluation.known import known_arrays
from ecgmoe.tasks import Task

LEVEL = 0.9
"""Share of patients that an interval or a set is to hold the truth of."""

MIN_PATIENTS = 20
"""With fewer in validation a task is left out: nine patients are the least that can promise 90 %, and say little."""

LOG_TEMPERATURE = 3.0
"""Bound of the logarithm of a temperature: a factor of 20 to either side."""

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted on validation; a task that is in neither was left out.

    Attributes:
        temperature: binary and multiclass, by task: divisor of the logits.
        half_width: regression, by task, in its unit: the interval is the prediction plus and minus it.
        threshold: multiclass, by task: the set holds every class whose calibrated probability is at least this.
        level: share of patients that intervals and sets are to cover.
        patients: by task: those it was fitted on.
        left_out: by task: why it has none.
        fitted_on: dataset and split.
    """

    temperature: Mapping[str, float] = field(default_factory=dict)
    half_width: Mapping[str, float] = field(default_factory=dict)
    threshold: Mapping[str, float] = field(default_factory=dict)
    level: float = LEVEL
    patients: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    fitted_on: str = ""

    def __post_init__(self) -> None:
        require(all(0 < t < math.inf for t in self.temperature.values()), "a temperature is not above 0")
        require(all(0 <= w < math.inf for w in self.half_width.values()), "a half width is negative or not finite")
        require(all(0 <= t <= 1 for t in self.threshold.values()), "a threshold is not in 0..1")
        require(0 < self.level < 1, f"level must be between 0 and 1, got {self.level}")

    def probabilities(self, task: Task, values: Values) -> Values:
        """Calibrated probabilities, in the shape and type of `values`: (n,) of class 1, or (n, classes).

        The likeliest class stays what it was, and so does which side of 0.5 a binary task is on.
        """
        if task.name not in self.temperature:
            return values
        return tempered(values, self.temperature[task.name]).astype(values.dtype)

    def sets(self, task: Task, calibrated: Values) -> npt.NDArray[np.bool_] | None:
        """(n, classes) which classes are in the set of each record; None where the task has no sets.

        The likeliest class always is: an empty set would tell nothing, and adding one never lowers the coverage.

        Args:
            task: of the kind multiclass.
            calibrated: (n, classes), from `probabilities`.
        """
        if task.name not in self.threshold:
            return None
        inside = calibrated >= self.threshold[task.name]
        inside[np.arange(len(inside)), calibrated.argmax(1)] = True
        return inside


def tempered(values: Values, temperature: float) -> Floats:
    """Probabilities after a division of their logits: (n,) of class 1, or (n, classes)."""
    p = values.astype(np.float64)
    both = np.stack([1 - p, p], 1) if p.ndim == 1 else p
    logits = np.log(np.clip(both, np.finfo(np.float32).tiny, 1)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    result: Floats = powers / powers.sum(1, keepdims=True)
    return result[:, 1] if p.ndim == 1 else result


def fit(predictions: pa.Table, tasks: Sequence[Task], fitted_on: str, level: float = LEVEL) -> Calibration:
    """Fit on the predictions of a split that nothing else is measured on.

    Args:
        predictions: uncalibrated, as `evaluation.predictions.prediction_table` makes it.
        tasks: those of the model.
        fitted_on: dataset and split, for the reader.
        level: share of patients to cover, below 1.

    Raises:
        ValueError: a prediction is missing or not finite.
    """
    temperature: dict[str, float] = {}
    half_width: dict[str, float] = {}
    threshold: dict[str, float] = {}
    patients: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for task in tasks:
        found = known_arrays(task, predictions)
        count = len(np.unique(found.patient_id))
        if count < MIN_PATIENTS:
            left_out[task.name] = f"{count} patients with a label in {fitted_on}, at least {MIN_PATIENTS} are needed"
            continue
        patients[task.name] = count
        if task.kind == "regression":
            half_width[task.name] = patient_quantile(np.abs(found.predicted - found.truth), found.patient_id, level)
            continue
        temperature[task.name] = best_temperature(found.truth, found.predicted)
        if task.kind == "multiclass":
            p = tempered(found.predicted, temperature[task.name])
            doubt = 1 - p[np.arange(len(p)), found.truth.astype(int)]
            threshold[task.name] = 1 - patient_quantile(doubt, found.patient_id, level)
    return Calibration(
        temperature=temperature,
        half_width=half_width,
        threshold=threshold,
        level=level,
        patients=patients,
        left_out=left_out,
        fitted_on=fitted_on,
    )


def best_temperature(truth: Values, probabilities: Values) -> float:
    """The temperature with the smallest log-loss, within exp(+-`LOG_TEMPERATURE`).

    Args:
        truth: (n,) labels.
        probabilities: (n,) of class 1, or (n, classes).
    """
    rows, labels = np.arange(len(truth)), truth.astype(int)

    def loss(log_temperature: float) -> float:
        p = tempered(probabilities, math.exp(log_temperature))
        of_label = p[rows, labels] if p.ndim == 2 else np.where(labels == 1, p, 1 - p)
        return float(-np.log(np.clip(of_label, np.finfo(np.float64).tiny, 1)).mean())

    found = minimize_scalar(loss, bounds=(-LOG_TEMPERATURE, LOG_TEMPERATURE), method="bounded")
    return math.exp(float(found.x))


def patient_quantile(scores: Values, patient_id: npt.NDArray[np.int64], level: float) -> float:
    """The smallest score that at least ceil((patients + 1) level) of the patients' weight does not exceed.

    Where there is one record for each patient this is the quantile of split conformal prediction.

    Args:
        scores: (n,) how far each record's truth was from its prediction.
        patient_id: (n,).
        level: share to cover.

    Raises:
        ValueError: too few patients to promise that level.
    """
    _, inverse, records = np.unique(patient_id, return_inverse=True, return_counts=True)
    needed = math.ceil((len(records) + 1) * level - 1e-9)
    if needed > len(records):
        raise ValueError(f"{len(records)} patients cannot promise a coverage of {level:.0%}")
    order = np.argsort(scores, kind="stable")
    weight = (1 / records[inverse])[order].cumsum()
    return float(scores[order][np.searchsorted(weight, needed - 1e-9)])
