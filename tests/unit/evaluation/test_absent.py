"""What the evaluated records lack, and what training lacked, is listed: no more and no less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ecgmoe.evaluation.absent import absent, absent_lines
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.evaluation.report import report_files
from ecgmoe.tasks import task_table

TASKS = task_table()
CLASSES = task_table(("arrhythmia",))[0].classes
EVERYTHING = {
    "rr_label_ms": [800.0] * 15,
    "age_years": [50.0] * 15,
    "sex_female": [0, 1] * 7 + [0],
    "potassium_abnormal": [0, 1] * 7 + [0],
    "rhythm15": list(range(15)),
}
TYPES = {"rr_label_ms": pa.float32(), "age_years": pa.float32()}


def labels(**columns: list[Any]) -> pa.Table:
    """Rows of labels.parquet as far as they matter here."""
    columns = {**EVERYTHING, **columns}
    n = len(columns["rr_label_ms"])
    table = pa.table({name: pa.array(values, TYPES.get(name, pa.int8())) for name, values in columns.items()})
    for name in ("study_id", "patient_id"):
        table = table.append_column(name, pa.array(range(n), pa.int64()))
    for name, value in {"path": "x", "rr_source": "annotated", "cart_id": None}.items():
        table = table.append_column(name, pa.array([value] * n))
    return table


def predicted(table: pa.Table) -> pa.Table:
    n = len(table)
    values: dict[str, Any] = {task.name: np.full(n, 0.5, np.float32) for task in TASKS}
    values["arrhythmia"] = np.full((n, 15), 1 / 15, np.float32)
    return prediction_table(values, table, TASKS)


def test_nothing_is_absent_where_nothing_is() -> None:
    found = absent(predicted(labels()), labels(), TASKS)
    assert found == {"tasks": {}, "classes": {}, "untrained_classes": {}}
    assert absent_lines({"absent": found}) == []


def test_nothing_is_said_where_nobody_looked() -> None:
    assert absent_lines({"tasks": {}}) == []


def test_tasks_without_a_label_here_or_in_training() -> None:
    here = labels(potassium_abnormal=[None] * 15)
    trained = labels(age_years=[None] * 15, potassium_abnormal=[None] * 15)
    found = absent(predicted(here), trained, TASKS)
    assert found["tasks"] == {
        "age": "no label in the training split",
        "potassium": "no label among the 15 evaluated records",
    }
    assert absent_lines({"absent": found})[:2] == [
        "absent: age, no label in the training split.",
        "absent: potassium, no label among the 15 evaluated records.",
    ]


def test_the_tasks_that_are_absent_are_those_that_are_not_measured() -> None:
    here, trained = labels(potassium_abnormal=[None] * 15), labels(age_years=[None] * 15)
    measured = evaluate(predicted(here), Constants.fit(trained, TASKS), TASKS, intervals=False)["tasks"]
    assert set(measured) | set(absent(predicted(here), trained, TASKS)["tasks"]) == {task.name for task in TASKS}
    assert set(measured) == {"rr", "sex", "arrhythmia"}


def test_classes_that_nobody_here_has_and_that_training_never_had() -> None:
    here = labels(rhythm15=[14] * 10 + [3, 3, 6, None, None], sex_female=[1] * 15)
    trained = labels(rhythm15=[14, 4, 3] * 5)
    found = absent(predicted(here), trained, TASKS)
    assert found["tasks"] == {}
    assert found["classes"] == {
        "sex": ["male"],
        "arrhythmia": [name for number, name in enumerate(CLASSES) if number not in (3, 6, 14)],
    }
    assert found["untrained_classes"] == {"arrhythmia": {"junctional": 1}}
    sex, rhythm, untrained = absent_lines({"absent": found})
    assert sex == "absent: no record of sex is male; macro-F1 is over the other classes."
    assert rhythm.startswith("absent: no record of arrhythmia is paced, ventricular tachycardia or idioventricular, ")
    assert untrained == "absent: training had no record of arrhythmia that is junctional (1)."


@pytest.mark.parametrize("name", ["report.txt", "report.md"])
def test_reports_say_it_below_the_table(name: str) -> None:
    metrics = {"tasks": {}, "absent": absent(predicted(labels(potassium_abnormal=[None] * 15)), labels(), TASKS)}
    lines = [line.strip() for line in report_files(metrics, "a run", [])[name].splitlines()]
    assert "absent: potassium, no label among the 15 evaluated records." in lines
