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
    labels = np.arange(len(task.classes))
    known = [known_arrays(task, table) for table in tables.values()]
    f1 = np.stack(
        [sk.f1_score(k.truth, k.predicted.argmax(1), labels=labels, average=None, zero_division=0) for k in known], 1
    )
    study = next(iter(tables.values()))["study_id"].to_numpy()[known[0].rows]
    first = np.unique(study, return_index=True)[1]
    cases = np.bincount(known[0].truth[first], minlength=len(task.classes))
    rows: list[tuple[str, ...]] = [(f"F1 of {task.name}", "cases", *tables)]
    for index in sorted(np.flatnonzero(cases), key=lambda each: -cases[each]):
        figures = [f"{value:.3f}" for value in f1[index]]
        name = task.classes[index]
        if cases[index] >= RANKED:
            # Figures of one width with one digit before the point: their order is that of the texts.
            best = max(figures)
            figures = [f"**{each}**" if each == best else each for each in figures]
        else:
            name += f" (fewer than {RANKED}: not compared)"
        rows.append((name, str(cases[index]), *figures))
    return markdown_rows(rows) + "\n"
