"""The records on which a model is furthest off, drawn: what a reader who doubts a figure wants to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.ecg.paper import ecg_png
from ecgmoe.evaluation.columns import DECISION_THRESHOLD
from ecgmoe.evaluation.known import Known, known_arrays
from ecgmoe.pipeline.prepared import PreparedData, row_groups, split_group
from ecgmoe.tasks import Task

OF_EACH = 2
"""Records of each task."""


@dataclass(frozen=True, kw_only=True)
class WorstError:
    """One record: its study, the task, and what a reader is told."""

    study_id: int
    task: str
    caption: str


def worst_errors(predictions: pa.Table, tasks: Sequence[Task], each: int = OF_EACH) -> list[WorstError]:
    """The records with the largest errors: of numbers, and of probabilities of the labelled class.

    Args:
        predictions: as `evaluation.predictions.prediction_table` makes it.
        tasks: those of the model.
        each: records of each task, from different patients.
    """
    found = []
    for task in tasks:
        known = known_arrays(task, predictions)
        study = predictions["study_id"].to_numpy()[known.rows]
        order = np.argsort(-_error(task, known), kind="stable")
        # The first record of each patient, in that order.
        _, first = np.unique(known.patient_id[order], return_index=True)
        for row in order[np.sort(first)][:each]:
            found.append(WorstError(study_id=int(study[row]), task=task.name, caption=_caption(task, known, row)))
    return found


def _error(task: Task, known: Known) -> np.ndarray:
    if task.kind != "multiclass":
        return np.abs(known.predicted - known.truth)
    return 1 - known.predicted[np.arange(len(known.truth)), known.truth]


def _caption(task: Task, known: Known, row: int) -> str:
    truth, predicted = known.truth[row], known.predicted[row]
    if task.kind == "regression":
        return f"{task.name}: label {truth:.0f} {task.unit}, predicted {predicted:.0f} {task.unit}"
    if task.kind == "binary":
        likely = int(predicted >= DECISION_THRESHOLD)
        p = predicted if likely else 1 - predicted
        return f"{task.name}: label {task.classes[int(truth)]}, predicted {task.classes[likely]} ({p:.2f})"
    likely = int(predicted.argmax())
    label, said = (task.classes[number].replace("_", " ") for number in (int(truth), likely))
    return f"{task.name}: label {label} ({predicted[int(truth)]:.3f}), predicted {said} ({predicted[likely]:.2f})"


def draw(data: PreparedData, errors: Sequence[WorstError]) -> dict[str, bytes]:
    """Each record on ECG paper as PNG, by caption.

    Args:
        data: the prepared folder that holds the studies.
        errors: whose records.
    """
    labels = data.labels().select(["study_id", "shard", "row"])
    labels = labels.filter(pc.is_in(labels["study_id"], pa.array([error.study_id for error in errors])))
    place = dict(zip(labels["study_id"].to_pylist(), row_groups(labels).tolist(), strict=True))
    pictures = {}
    for error in errors:
        group = data.row_group(*split_group(place[error.study_id]))
        row = int(np.flatnonzero(group.study_id == error.study_id)[0])
        caption = f"{error.caption} (study {error.study_id})"
        pictures[caption] = ecg_png(group.signal[row], group.r_peaks[row].tolist(), caption)
    return pictures
