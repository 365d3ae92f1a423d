"""What the model has to know of the training split: input statistics, target scaling and class weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ecgmoe.tasks import Task


@dataclass(frozen=True, kw_only=True)
class TrainingStatistics:
    """Stored with the model, because its weights mean nothing without them.

    Attributes:
        characteristics_mean, characteristics_std: of the global characteristics (X values each).
        summary_mean, summary_std: of the RR summary in ms (6 values each).
        target_mean, target_std: of each regression task, in its unit.
        class_weights: of each multiclass task, mean 1 over the training records.
    """

    characteristics_mean: tuple[float, ...]
    characteristics_std: tuple[float, ...]
    summary_mean: tuple[float, ...]
    summary_std: tuple[float, ...]
    target_mean: dict[str, float]
    target_std: dict[str, float]
    class_weights: dict[str, tuple[float, ...]]


def target_scaling(labels: pa.Table, tasks: Sequence[Task]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of every regression label over the rows of `labels` (the training split)."""
    mean, std = {}, {}
    for task in tasks:
        if task.kind == "regression":
            values = labels[task.label].drop_null().to_numpy()
            mean[task.name] = float(values.mean()) if len(values) else 0.0
            # One value, or none, has no spread: a standard deviation of 0 would divide the target by zero.
            std[task.name] = float(values.std()) or 1.0 if len(values) else 1.0
    return mean, std


def class_weights(labels: pa.Table, tasks: Sequence[Task], exponent: float) -> dict[str, tuple[float, ...]]:
    """n_c^-exponent for every class of every multiclass task, scaled to a mean of 1 over the labelled records."""
    weights = {}
    for task in tasks:
        if task.kind == "multiclass":
            values = labels[task.label].drop_null().to_numpy()
            counts = np.bincount(values, minlength=len(task.classes)).astype(float)
            raw = np.maximum(counts, 1.0) ** -exponent
            scale = counts.sum() / (counts @ raw) if counts.sum() else 1.0
            weights[task.name] = tuple(float(weight) for weight in raw * scale)
    return weights
