"""What a report has to leave out: tasks and classes that the evaluated records, or training, do not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.evaluation.columns import label_column
from ecgmoe.tasks import Task


def absent(predictions: pa.Table, training_labels: pa.Table, tasks: Sequence[Task]) -> dict[str, Any]:
    """Tasks that are not measured, classes that cannot be, and classes that the model never met.

    Args:
        predictions: as `evaluation.predictions.prediction_table` makes it.
        training_labels: rows of labels.parquet, the training split that the model and the baselines were fitted on.
        tasks: those of the model.

    Returns:
        As JSON: "tasks", by task without figures the reason; "classes", by task those that none of the evaluated records
        has, over which no macro-F1 goes; "untrained_classes", by task those that some of them have and no training record
        had, with how many have it. Only what is absent is named.
    """
    reasons, classes, untrained = {}, {}, {}
    for task in tasks:
        here = _counts(task, predictions[label_column(task.name)])
        trained = _counts(task, training_labels[task.label])
        if not here:
            reasons[task.name] = f"no label among the {len(predictions):,} evaluated records"
        elif not trained:
            reasons[task.name] = "no label in the training split"
        else:
            if missing := [name for name in task.classes if name not in here]:
                classes[task.name] = missing
            if new := {name: here[name] for name in task.classes if name in here and name not in trained}:
                untrained[task.name] = new
    return {"tasks": reasons, "classes": classes, "untrained_classes": untrained}


def absent_lines(metrics: Mapping[str, Any]) -> list[str]:
    """`absent` in plain words, for below a table; nothing where nothing is absent, or where it was not looked for."""
    if "absent" not in metrics:
        return []
    about = metrics["absent"]
    lines = [f"absent: {task}, {reason}." for task, reason in about["tasks"].items()]
    for task, classes in about["classes"].items():
        lines.append(f"absent: no record of {task} is {', '.join(classes)}; macro-F1 is over the other classes.")
    for task, counts in about["untrained_classes"].items():
        named = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
        lines.append(f"absent: training had no record of {task} that is {named}.")
    return lines


def _counts(task: Task, labels: pa.ChunkedArray) -> dict[Any, int]:
    """Records by label, classes by their names; a predictions table holds these already where there are many classes."""
    known = {each["values"]: each["counts"] for each in pc.value_counts(labels.drop_null()).to_pylist()}
    if not task.classes:
        return known
    return {value if isinstance(value, str) else task.classes[value]: count for value, count in known.items()}
