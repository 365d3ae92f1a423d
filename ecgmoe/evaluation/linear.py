"""The linear baseline: ridge and logistic regression on 48 statistics of rhythm and amplitude of a record.

It is fitted on the training split of the data that the model was trained on, and shown beside the model in every
report: what a network adds, it has to add to this. Strengths of the penalty never see the test split: ridge takes its own
by leave-one-out errors, logistic regression by the log-loss of the validation split, whose patients are others.

Cost: 1 ms of one core per record for the statistics (`record_statistics`), and for n training records up to about 0.5 ms x
n for the fits, most of it for 15 rhythm classes. Above `MAX_RECORDS` the records are a sample, so that MIMIC-IV-ECG takes
minutes: more would lower the log-loss of 735 weights by less than 735 / (2 x 100,000) = 0.004.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from ecgmoe.evaluation.constant import SMOOTHING
from ecgmoe.evaluation.record_statistics import STATISTICS, Statistics, record_statistics
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.shards import mix64
from ecgmoe.tasks import Task

MAX_RECORDS = {"train": 100_000, "validation": 20_000}
"""Records from which it is fitted, at most, and records by whose log-loss the penalty is chosen."""

CLIP = 5.0
"""Bound of a standardised statistic, as in the model: one electrode fault of 10 mV does not decide a slope."""

ALPHAS = tuple(10.0**power for power in range(-2, 5))
"""Penalties of ridge regression that are tried."""

INVERSE_PENALTIES = tuple(10.0**power for power in range(-2, 3))
"""Inverse penalties C of logistic regression that are tried, the strongest penalty first."""

MAX_ITERATIONS = 500
"""Of L-BFGS. Where it needs more, nearly separable rare classes let weights grow: stopping there is a penalty too."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LinearBaseline:
    """A regression per task, on standardised and clipped statistics.

    Attributes:
        tasks: those of the model.
        scaler: mean and spread of every statistic over the training records.
        regressions: by task, a fitted `RidgeCV` or `LogisticRegression`.
        records: by task, labelled training records that it was fitted on.
        left_out: by task that has no regression, the reason.
        training_records: number of training records whose statistics were read.
    """

    tasks: tuple[Task, ...]
    scaler: StandardScaler
    regressions: dict[str, Any]
    records: dict[str, int]
    left_out: dict[str, str]
    training_records: int

    @classmethod
    def fit(cls, labels: pa.Table, statistics: Statistics, tasks: Sequence[Task]) -> LinearBaseline:
        """Fit every task on its labelled training records; rows of other splits but validation are not looked at.

        Args:
            labels: n rows of labels.parquet, in any order.
            statistics: (n, 48) of those rows.
            tasks: those of the model.

        Raises:
            ValueError: there is no training record.
        """
        # Sums over records round in their order, so it is always the same one.
        order = np.argsort(labels["study_id"].to_numpy(), kind="stable")
        labels, statistics = labels.take(pa.array(order)), statistics[order]
        train, validation = (_in_split(labels, split) for split in ("train", "validation"))
        if not train.any():
            raise ValueError("the training split has no record: prepare more records or choose other split shares")
        scaler = StandardScaler().fit(statistics[train].astype(np.float64))
        x = _standardised(scaler, statistics)
        regressions: dict[str, Any] = {}
        records, left_out = {}, {}
        for task in tasks:
            target, known = _target(labels, task)
            fitted, choosing = ((x[rows], target[rows]) for rows in (train & known, validation & known))
            if reason := _cannot_fit(task, fitted[1]):
                left_out[task.name] = reason
                continue
            records[task.name] = len(fitted[1])
            ridge = task.kind == "regression"
            regressions[task.name] = RidgeCV(alphas=ALPHAS).fit(*fitted) if ridge else _logistic(task, fitted, choosing)
        return cls(
            tasks=tuple(tasks),
            scaler=scaler,
            regressions=regressions,
            records=records,
            left_out=left_out,
            training_records=int(train.sum()),
        )

    def predict(self, statistics: Statistics) -> dict[str, Values]:
        """Predictions of n records by task: (n,) values, (n,) probabilities of class 1, or (n, classes); from (n, 48)."""
        x, predictions = _standardised(self.scaler, statistics), {}
        for task in (task for task in self.tasks if task.name in self.regressions):
            regression = self.regressions[task.name]
            if task.kind == "regression":
                predictions[task.name] = regression.predict(x)
                continue
            probabilities = _probabilities(regression, x, self.records[task.name], len(task.classes))
            predictions[task.name] = probabilities[:, 1] if task.kind == "binary" else probabilities
        return predictions

    def describe(self) -> dict[str, Any]:
        """What a report says of it, as JSON: numbers of statistics and records, penalties, and what was left out."""
        penalties = {
            task: {"alpha": float(each.alpha_)} if isinstance(each, RidgeCV) else {"C": float(each.C)}
            for task, each in self.regressions.items()
        }
        return {
            "statistics": len(STATISTICS),
            "training_records": self.training_records,
            "tasks": {task: {"n": self.records[task], **penalty} for task, penalty in penalties.items()},
            "left_out": self.left_out,
        }


def fit_linear(data: PreparedData, tasks: Sequence[Task], limits: Mapping[str, int] = MAX_RECORDS) -> LinearBaseline:
    """Read the statistics of the training and validation split, at most `limits` records of each, and fit."""
    labels = data.labels()
    labels = pa.concat_tables([sample(labels, split, limit) for split, limit in limits.items()])
    return LinearBaseline.fit(
        labels, record_statistics(data, labels["study_id"].to_numpy(), "linear baseline, training"), tasks
    )


def linear_beside(
    trained_on: PreparedData, evaluated: PreparedData, study_id: npt.NDArray[np.int64], tasks: Sequence[Task]
) -> tuple[dict[str, Values], dict[str, Any]]:
    """What the linear baseline predicts where a model is evaluated, and what a report says of it.

    Args:
        trained_on: prepared folder whose training split it is fitted on, as the model was.
        evaluated: prepared folder of the records that are predicted, the same or another.
        study_id: (n,) those records.
        tasks: those of the model.

    Returns:
        `LinearBaseline.predict` of the n records, and `LinearBaseline.describe`.
    """
    linear = fit_linear(trained_on, tasks)
    return linear.predict(record_statistics(evaluated, study_id, "linear baseline")), linear.describe()


def sample(labels: pa.Table, split: str, limit: int) -> pa.Table:
    """At most `limit` records of a split: those with the lowest hash of their study_id.

    That is a random sample, the same for any order of the rows, and lies in the first shards, so that the others need
    not be read.
    """
    labels = labels.filter(pc.equal(labels["split"], split))
    order = np.argsort(mix64(labels["study_id"].to_numpy()), kind="stable")
    return labels.take(pa.array(order[:limit]))


def _in_split(labels: pa.Table, split: str) -> npt.NDArray[np.bool_]:
    return pc.equal(labels["split"], split).to_numpy(zero_copy_only=False)


def _standardised(scaler: StandardScaler, statistics: Statistics) -> Values:
    return np.clip(scaler.transform(statistics.astype(np.float64)), -CLIP, CLIP)


def _target(labels: pa.Table, task: Task) -> tuple[Values, npt.NDArray[np.bool_]]:
    """A task's labels (n,), NaN where one is missing, and where they are known."""
    values = labels[task.label].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values, np.isfinite(values)


def _cannot_fit(task: Task, target: Values) -> str | None:
    """Why no regression can be fitted to these labels; None where one can."""
    if not len(target):
        return "no label in the training split"
    if task.kind == "regression":
        return None if len(target) > 1 else "one label in the training split"
    return None if len(np.unique(target)) > 1 else "one class in the training split"


def _logistic(task: Task, train: tuple[Values, Values], validation: tuple[Values, Values]) -> LogisticRegression:
    """The logistic regression of the penalty with the least validation log-loss; the middle one without validation."""
    if not len(validation[1]):
        return _fit_logistic(train, INVERSE_PENALTIES[len(INVERSE_PENALTIES) // 2])
    candidates = [_fit_logistic(train, c) for c in INVERSE_PENALTIES]
    classes = len(task.classes)
    losses = [
        log_loss(validation[1], _probabilities(each, validation[0], len(train[1]), classes), labels=range(classes))
        for each in candidates
    ]
    return candidates[int(np.argmin(losses))]


def _fit_logistic(train: tuple[Values, Values], c: float) -> LogisticRegression:
    x, target = train
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=c, max_iter=MAX_ITERATIONS).fit(x, target.astype(int))


def _probabilities(regression: LogisticRegression, x: Values, records: int, classes: int) -> Values:
    """Probability of every class, smoothed like the constant's: (n, classes).

    As if, of `records` labels and `SMOOTHING` more of each class, the regression knew the former. So a class that
    training never saw has a finite log-loss, while neither ranking nor likeliest class nor a threshold of 1/2 change.
    """
    seen = np.zeros((len(x), classes))
    seen[:, regression.classes_] = regression.predict_proba(x)
    return (records * seen + SMOOTHING) / (records + SMOOTHING * classes)
