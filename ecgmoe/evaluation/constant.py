"""The best constant predictor, fitted on the training split: what every table shows beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgmoe.tasks import Task

SMOOTHING = 1.0
"""Added to every class count, so that a class that training never saw has a finite log-loss."""


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Per task, the constant that is best for its metric on the training split.

    Attributes:
        median: regression: it minimises the MAE.
        prior: binary and multiclass: probability of every class, smoothed; it minimises the log-loss. Its likeliest
            class maximises accuracy, and macro-F1 too: one class for every record has an F1 for that class alone,
            2 p / (1 + p), which grows with its share p.
    """

    median: dict[str, float]
    prior: dict[str, tuple[float, ...]]

    @classmethod
    def fit(cls, labels: pa.Table, tasks: Sequence[Task]) -> Constants:
        """From rows of labels.parquet (the training split); a task without labels is left out."""
        median, prior = {}, {}
        for task in tasks:
            values = labels[task.label].drop_null().to_numpy()
            if not len(values):
                continue
            if task.kind == "regression":
                median[task.name] = float(np.median(values))
                continue
            counts = np.bincount(values, minlength=len(task.classes)).astype(float)
            smoothed = counts + SMOOTHING
            prior[task.name] = tuple(float(p) for p in smoothed / smoothed.sum())
        return cls(median=median, prior=prior)


def prior_of(constants: Constants, task: Task, records: int) -> npt.NDArray[np.float64]:
    """The class prior for every record: (records, classes)."""
    return np.tile(np.array(constants.prior[task.name]), (records, 1))
