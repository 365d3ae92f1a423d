"""For whom the model is better or worse: by sex, decade of age, rhythm and ECG machine, and by class of the rhythm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgmoe.evaluation.bootstrap import WEIGHTED, interval, resampled, weighted_classes
from ecgmoe.evaluation.columns import CART, DECISION_THRESHOLD, label_column
from ecgmoe.evaluation.known import Known, known_arrays
from ecgmoe.tasks import Kind, Task

MIN_PATIENTS = 20
"""A group with fewer patients is listed without a figure: its interval would say nothing, and it might name somebody."""

MAX_CARTS = 8
"""ECG machines that are shown, those with the most records."""

MAIN: dict[Kind, str] = {"regression": "mae", "binary": "auroc", "multiclass": "accuracy"}
"""The one metric of a kind of task by which groups are compared."""

Rows = npt.NDArray[np.bool_]


class Group(NamedTuple):
    """Some of the records: what they are grouped by, the group's name, and (n,) which they are."""

    by: str
    name: str
    rows: Rows


GROUPED: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("sex", label_column("sex"), lambda female: "female" if female else "male"),
    ("age", label_column("age"), lambda years: f"{years // 10 * 10:.0f} to {years // 10 * 10 + 9:.0f} years"),
    ("rhythm", label_column("arrhythmia"), str),
    ("cart", CART, lambda number: f"cart {number}"),
)
"""By what records are grouped, its column, and the name of a value's group."""


def groups(predictions: pa.Table) -> Iterator[Group]:
    """Every group of a predictions table that has records, in the order of a report."""
    for by, column, name in GROUPED:
        if column not in predictions.column_names:
            continue
        of_record = np.array(
            ["" if value is None else name(value) for value in predictions[column].to_pylist()], dtype=object
        )
        names, counts = np.unique(of_record[of_record != ""], return_counts=True)
        if by == "cart":
            names = names[np.argsort(-counts, kind="stable")[:MAX_CARTS]]
        yield from (Group(by, each, of_record == each) for each in names)


def subgroup_metrics(predictions: pa.Table, tasks: Sequence[Task], *, seed: int = 0) -> list[dict[str, Any]]:
    """The main metric of every task in every group, with a patient-level interval.

    Args:
        predictions: as `evaluation.predictions.prediction_table` makes it.
        tasks: those of the model.
        seed: of the bootstrap.

    Returns:
        Rows {"by", "group", "task", "metric", "n", "patients", "value", "ci"}; the value is None in a group of fewer than
        `MIN_PATIENTS` patients, and where the metric is not defined (AUROC of one class).
    """
    found = {task.name: known_arrays(task, predictions) for task in tasks}
    table: list[dict[str, Any]] = []
    for group in groups(predictions):
        for task in tasks:
            known = found[task.name]
            own = group.rows[known.rows]
            if not own.any():
                continue
            part = Known(group.rows & known.rows, known.truth[own], known.predicted[own], known.patient_id[own])
            table.append({"by": group.by, "group": group.name, **_main(task, part, seed)})
    return table


def _main(task: Task, known: Known, seed: int) -> dict[str, Any]:
    metric, patients = MAIN[task.kind], len(np.unique(known.patient_id))
    row: dict[str, Any] = {"task": task.name, "metric": metric, "n": len(known.truth), "patients": patients}
    measure = WEIGHTED[task.kind]
    value = measure(known.truth, known.predicted, np.ones((1, len(known.truth))))[metric][0]
    if patients < MIN_PATIENTS or not np.isfinite(value):
        return {**row, "value": None, "ci": None}
    drawn = resampled(
        lambda weights: {metric: measure(known.truth, known.predicted, weights)[metric]}, known.patient_id, seed=seed
    )
    return {**row, "value": float(value), "ci": interval(drawn[metric])}


def class_metrics(predictions: pa.Table, task: Task, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Sensitivity, precision and F1 of every class that is a label or a prediction, with patient-level intervals.

    Args:
        predictions: as `evaluation.predictions.prediction_table` makes it.
        task: of the kind multiclass.
        seed: of the bootstrap.

    Returns:
        By class {"n" (labels), "predicted" (records taken for it), and "<metric>", "<metric>_ci"}; None where a metric is
        not defined.
    """
    known = known_arrays(task, predictions)
    if not len(known.truth):
        return {}
    truth, p = known.truth, known.predicted
    there, found = (np.bincount(each, minlength=len(task.classes)) for each in (truth, p.argmax(1)))
    values = weighted_classes(truth, p, np.ones((1, len(truth))))
    drawn = resampled(lambda weights: weighted_classes(truth, p, weights), known.patient_id, seed=seed)
    table: dict[str, dict[str, Any]] = {}
    for number in np.flatnonzero(there + found):
        row: dict[str, Any] = {"n": int(there[number]), "predicted": int(found[number])}
        for name, each in values.items():
            value = each[0, number]
            row[name] = float(value) if np.isfinite(value) else None
            row[f"{name}_ci"] = interval(drawn[name][:, number]) if np.isfinite(value) else None
        table[task.classes[number]] = row
    return table


def confusion(predictions: pa.Table, task: Task) -> dict[str, Any]:
    """How often each labelled class (rows) was taken for which (columns), over the classes that occur as either.

    Returns:
        {"classes", "counts" (labelled, predicted)}; no classes where there are no labels. A binary task is decided at 0.5.
    """
    known = known_arrays(task, predictions)
    decided = (
        known.predicted.argmax(1) if known.predicted.ndim == 2 else (known.predicted >= DECISION_THRESHOLD).astype(int)
    )
    truth = known.truth.astype(int)
    present = np.union1d(truth, decided)
    position = np.searchsorted(present, truth), np.searchsorted(present, decided)
    counts = np.zeros((len(present), len(present)), dtype=int)
    np.add.at(counts, position, 1)
    return {"classes": [task.classes[number] for number in present], "counts": counts.tolist()}
