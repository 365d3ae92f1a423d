"""The predictions table: what the model says of each record, with each label beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgmoe.evaluation.columns import ARRHYTHMIA_PROBABILITIES, CART, PREDICTION, PROBABILITY, label_column
from ecgmoe.tasks import Task


def prediction_columns(values: Mapping[str, npt.NDArray[np.float32]], tasks: Sequence[Task]) -> dict[str, pa.Array]:
    """Columns of the predictions of n records.

    Args:
        values: by task: (n,) ms or years, (n,) probability of the class 1, or (n, classes) probabilities.
        tasks: those of the model.
    """
    columns: dict[str, pa.Array] = {}
    for task in tasks:
        value = values[task.name]
        if task.kind == "multiclass":
            best = value.argmax(1)
            columns[PREDICTION[task.name]] = pa.array([task.classes[index] for index in best], pa.string())
            columns[PROBABILITY[task.name]] = pa.array(value[np.arange(len(best)), best], pa.float32())
            columns[ARRHYTHMIA_PROBABILITIES] = pa.array(list(value), pa.list_(pa.float32()))
        else:
            columns[PREDICTION[task.name]] = pa.array(value, pa.float32())
    return columns


def label_columns(labels: pa.Table, tasks: Sequence[Task]) -> dict[str, pa.Array]:
    """Columns label_<task>: numbers, and class names for a multiclass task."""
    columns: dict[str, pa.Array] = {}
    for task in tasks:
        values = labels[task.label].combine_chunks()
        if task.kind == "multiclass":
            values = pa.array(
                [None if value is None else task.classes[value] for value in values.to_pylist()], pa.string()
            )
        columns[label_column(task.name)] = values
    return columns


def prediction_table(
    values: Mapping[str, npt.NDArray[np.float32]], labels: pa.Table, tasks: Sequence[Task], **more: pa.Array
) -> pa.Table:
    """Predictions of the records of `labels`, row by row.

    Args:
        values: as `prediction_columns` takes them.
        labels: rows of labels.parquet.
        tasks: those of the model.
        more: further columns, such as rr_detected_ms.
    """
    identity = {name: labels[name] for name in ("study_id", "patient_id", "path", "rr_source", CART)}
    return pa.table({**identity, **prediction_columns(values, tasks), **label_columns(labels, tasks), **more})
