"""F1 by class: what is counted, what is best, and what is not compared."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ecgmoe.evaluation.class_table import class_table
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.pipeline.schema import LABEL_SCHEMA
from ecgmoe.tasks import task_table

(TASK,) = task_table(("arrhythmia",))


def predictions(truth: list[int], said: list[int], study: list[int]) -> pa.Table:
    """Of certain predictors."""
    n = len(truth)
    columns = {field.name: pa.nulls(n, field.type) for field in LABEL_SCHEMA}
    columns["study_id"] = pa.array(study, LABEL_SCHEMA.field("study_id").type)
    columns["patient_id"] = pa.array(study, LABEL_SCHEMA.field("patient_id").type)
    columns["rhythm15"] = pa.array(np.array(truth), pa.int64()).cast(LABEL_SCHEMA.field("rhythm15").type)
    return prediction_table({"arrhythmia": np.eye(15, dtype=np.float32)[said]}, pa.table(columns), (TASK,))


def test_the_best_is_bold_where_there_are_ten_cases() -> None:
    truth = [0] * 12 + [1] * 10 + [2] * 3
    good, bad = truth, [0] * 12 + [1] * 5 + [0] * 5 + [0] * 3
    rows = class_table(
        TASK, {"good": predictions(truth, good, list(range(25))), "bad": predictions(truth, bad, list(range(25)))}
    ).splitlines()
    assert rows[0] == "| F1 of arrhythmia | cases | good | bad |"
    assert rows[2] == f"| {TASK.classes[0]} | 12 | **1.000** | 0.750 |"
    assert rows[3] == f"| {TASK.classes[1]} | 10 | **1.000** | 0.667 |"
    assert rows[4] == f"| {TASK.classes[2]} (fewer than 10: not compared) | 3 | 1.000 | 0.000 |"
    assert len(rows) == 5


def test_seeds_are_no_cases() -> None:
    truth, study = [0] * 8 * 2, [*range(8)] * 2
    (_, _, row) = class_table(TASK, {"one": predictions(truth, truth, study)}).splitlines()
    assert row == f"| {TASK.classes[0]} (fewer than 10: not compared) | 8 | 1.000 |"


def test_equals_are_both_best() -> None:
    truth = [0] * 10
    table = predictions(truth, truth, list(range(10)))
    assert class_table(TASK, {"one": table, "two": table}).count("**1.000**") == 2
