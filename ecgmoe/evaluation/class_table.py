"""F1 of every class for several predictors; a class with few cases is shown, and no predictor is called its best."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import sklearn.metrics as sk

from ecgmoe.evaluation.known import known_arrays
from ecgmoe.evaluation.report import markdown_rows
from ecgmoe.tasks import Task

RANKED = 10
"""Records of a class from which its figures are compared: with fewer, one record moves them by more than models differ."""


def class_table(task: Task, tables: Mapping[str, pa.Table]) -> str:
    """In Markdown: a row per class that occurs, the most frequent first, the best F1 in bold.

    Args:
        task: multiclass.
        tables: predictions of the same records by predictor; a record that comes several times, once by each seed, counts
            once among the cases.
    """
    f1 = {}
    for name, table in tables.items():
        known = known_arrays(task, table)
        labels = np.arange(len(task.classes))
        f1[name] = sk.f1_score(known.truth, known.predicted.argmax(1), labels=labels, average=None, zero_division=0)
    study = table["study_id"].to_numpy()[known.rows]
    first = np.unique(study, return_index=True)[1]
    cases = np.bincount(known.truth[first], minlength=len(task.classes))
    rows: list[tuple[str, ...]] = [(f"F1 of {task.name}", "cases", *tables)]
    for index in sorted(np.flatnonzero(cases), key=lambda each: -cases[each]):
        best = max(round(float(values[index]), 3) for values in f1.values())
        shown = []
        for values in f1.values():
            text = f"{values[index]:.3f}"
            shown.append(f"**{text}**" if cases[index] >= RANKED and round(float(values[index]), 3) == best else text)
        few = "" if cases[index] >= RANKED else f" (fewer than {RANKED}: not compared)"
        rows.append((task.classes[index] + few, str(cases[index]), *shown))
    return markdown_rows(rows) + "\n"
