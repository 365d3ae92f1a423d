"""What a predictions table knows of a task: the records that have a label, as arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.evaluation.columns import ARRHYTHMIA_PROBABILITIES, PREDICTION, label_column
from ecgmoe.tasks import Task

Values = npt.NDArray[Any]


class Known(NamedTuple):
    """Records with a label.

    Attributes:
        rows: (all records,) whether a record has a label; the others are absent below.
        truth: (n,) labels: ms or years, or the number of the class.
        predicted: (n,) values or probabilities of class 1, or (n, classes) probabilities; float64.
        patient_id: (n,).
    """

    rows: npt.NDArray[np.bool_]
    truth: Values
    predicted: Values
    patient_id: npt.NDArray[np.int64]


def known_arrays(task: Task, predictions: pa.Table) -> Known:
    """Labels and predictions of a task.

    Args:
        task: one of the model's.
        predictions: as `evaluation.predictions.prediction_table` makes it.

    Raises:
        ValueError: a prediction is missing or not finite: a metric over the rest would hide the fault, and a NaN score
            would choose a diverged checkpoint.
    """
    labelled = pc.is_valid(predictions[label_column(task.name)])
    known = predictions.filter(labelled)
    labels = known[label_column(task.name)]
    if task.kind == "multiclass":
        position = {name: index for index, name in enumerate(task.classes)}
        truth = np.array([position[name] for name in labels.to_pylist()], dtype=np.int64)
    else:
        truth = labels.to_numpy().astype(np.float64)
    predicted = predicted_values(task, known)
    wrong = int((~np.isfinite(predicted)).reshape(len(predicted), -1).any(1).sum()) if len(predicted) else 0
    if wrong:
        raise ValueError(
            f"{wrong} of {len(predicted)} predictions of the task {task.name} are missing or not finite: where "
            "training diverged, lower the learning rate; where the file was edited, make the predictions again"
        )
    return Known(labelled.to_numpy(), truth, predicted, known["patient_id"].to_numpy())


def predicted_values(task: Task, predictions: pa.Table) -> Values:
    """What a predictions table says of a task: (n,) values or probabilities of class 1, or (n, classes) ones; float64."""
    if task.kind != "multiclass":
        return predictions[PREDICTION[task.name]].to_numpy().astype(np.float64)
    column = predictions[ARRHYTHMIA_PROBABILITIES].to_numpy()
    p = np.stack(column).astype(np.float64) if len(column) else np.zeros((0, len(task.classes)))
    # A softmax in fp32 sums to 1 only up to rounding.
    return p / p.sum(1, keepdims=True)
