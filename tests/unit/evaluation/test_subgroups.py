"""Groups, classes and the confusion matrix against scikit-learn on the records of each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn import metrics as sk

from ecgmoe.evaluation.known import known_arrays
from ecgmoe.evaluation.subgroups import MAX_CARTS, class_metrics, confusion, groups, subgroup_metrics
from ecgmoe.tasks import task_table
from predictions_examples import made_up

TASKS = task_table()
RHYTHM = TASKS[-1]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return made_up(TASKS, 250, 5)


def test_every_record_is_in_one_group_of_each_kind(table: pa.Table) -> None:
    counted: dict[str, np.ndarray] = {}
    for group in groups(table):
        counted[group.by] = counted.get(group.by, 0) + group.rows
    for by, column in (("sex", "label_sex"), ("age", "label_age"), ("rhythm", "label_arrhythmia")):
        assert np.array_equal(counted[by], table[column].is_valid().to_numpy().astype(int)), by
    ages = [group.name for group in groups(table) if group.by == "age"]
    assert ages == [f"{decade} to {decade + 9} years" for decade in range(20, 90, 10)]
    carts = [int(group.rows.sum()) for group in groups(table) if group.by == "cart"]
    assert carts == sorted(carts, reverse=True)
    assert len(carts) == MAX_CARTS


def test_figures_of_a_group_are_those_of_its_records(table: pa.Table) -> None:
    rows = {(row["group"], row["task"]): row for row in subgroup_metrics(table, TASKS)}
    women = table.filter(pc.equal(table["label_sex"], 1))
    age = known_arrays(TASKS[1], women)
    row = rows["female", "age"]
    assert row["value"] == pytest.approx(sk.mean_absolute_error(age.truth, age.predicted), abs=1e-9)
    assert (row["n"], row["patients"]) == (len(age.truth), len(np.unique(age.patient_id)))
    assert row["ci"][0] < row["value"] < row["ci"][1]
    potassium = known_arrays(TASKS[3], women)
    auroc = sk.roc_auc_score(potassium.truth, potassium.predicted)
    assert rows["female", "potassium"]["value"] == pytest.approx(auroc, abs=1e-9)
    # Among women everybody has one class of the task sex.
    assert rows["female", "sex"]["value"] is None


def test_a_small_group_is_listed_without_a_figure() -> None:
    rows = subgroup_metrics(made_up(TASKS, 40, 2), TASKS)
    small = [row for row in rows if row["patients"] < 20]
    assert small
    assert all(row["value"] is None and row["ci"] is None and row["n"] for row in small)
    assert any(row["value"] is not None for row in rows)


def test_figures_of_a_class_are_scikit_learns(table: pa.Table) -> None:
    known = known_arrays(RHYTHM, table)
    decided = known.predicted.argmax(1)
    found = class_metrics(table, RHYTHM)
    present = np.union1d(known.truth, decided)
    assert list(found) == [RHYTHM.classes[number] for number in present]
    precision, sensitivity, f1, n = sk.precision_recall_fscore_support(
        known.truth, decided, labels=present, zero_division=np.nan
    )
    for index, name in enumerate(found):
        row = found[name]
        assert row["n"] == n[index]
        if row["n"]:
            assert row["sensitivity"] == pytest.approx(sensitivity[index], abs=1e-9)
            assert row["sensitivity_ci"][0] <= row["sensitivity"] <= row["sensitivity_ci"][1]
            assert row["f1"] == pytest.approx(0 if np.isnan(f1[index]) else f1[index], abs=1e-9)
        else:
            assert row["sensitivity"] is row["sensitivity_ci"] is None
        assert row["precision"] == (pytest.approx(precision[index], abs=1e-9) if row["predicted"] else None)


@pytest.mark.parametrize("task", TASKS[2:], ids=lambda task: task.name)
def test_the_confusion_matrix_is_scikit_learns(table: pa.Table, task) -> None:
    known = known_arrays(task, table)
    decided = known.predicted.argmax(1) if known.predicted.ndim == 2 else (known.predicted >= 0.5).astype(int)
    found = confusion(table, task)
    assert found["counts"] == sk.confusion_matrix(known.truth.astype(int), decided).tolist()
    assert found["classes"] == [task.classes[number] for number in np.union1d(known.truth.astype(int), decided)]
