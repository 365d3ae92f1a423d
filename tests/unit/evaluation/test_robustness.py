"""Curves: every figure against scikit-learn and the evaluation's own, and what the page must say."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from curve_examples import RECORDS, TASKS, labels, predicted, tables
from ecgmoe.ecg.perturb import CLEAN, PERTURBATIONS, Condition
from ecgmoe.evaluation.bootstrap import paired_intervals
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.known import known_arrays
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.report import RESEARCH_ONLY
from ecgmoe.evaluation.robustness import (
    CONSTANT,
    DETECTOR,
    MAIN,
    Point,
    csv_text,
    points_of,
    refused_shares,
    summary_of,
)
from ecgmoe.evaluation.robustness_page import _linear_to, hardest, measured, page, pictures, text_table, under

NOISY = Condition("mains", 0.0)
CONSTANTS = Constants.fit(labels(), TASKS)
NOTES = ["SIMULATED DATA: these figures say nothing.", "Random-initialised backbones: <dlinear>."]


@pytest.fixture(scope="module")
def points() -> list[Point]:
    both = [list(points_of(run, tables(error), CONSTANTS, TASKS)) for run, error in (("first", 1.0), ("plain", 1.6))]
    return [*both[0], *(point for point in both[1] if point.run == "plain")]


@pytest.fixture(scope="module")
def summary(points: list[Point]) -> dict[str, Any]:
    runs = {"first": "a" * 64, "plain": "b" * 64}
    about = {"split": "test", "seed": 0, "records": RECORDS, "patients": 30, "runs": runs}
    return summary_of(points, refused_shares(tables()), "test split of simulated", NOTES, **about)


@pytest.fixture(scope="module")
def drawn(summary: dict[str, Any]) -> dict[str, bytes]:
    return pictures(summary)


def one(points: list[Point], run: str, condition: Condition, task: str, metric: str) -> Point:
    place = run, *condition, task, metric
    (found,) = [p for p in points if (p.run, p.perturbation, p.strength, p.task, p.metric) == place]
    return found


def test_values_are_scikit_learns(points: list[Point]) -> None:
    for condition in (CLEAN, NOISY):
        table = predicted(condition, 1.0)
        rows = table.to_pylist()
        aged = [row for row in rows if row["label_age"] is not None]
        tested = [row for row in rows if row["label_potassium"] is not None]
        assert len(aged) < RECORDS > len(tested)
        found = one(points, "first", condition, "age", "mae")
        expected = sk.mean_absolute_error([row["label_age"] for row in aged], [row["age_years"] for row in aged])
        assert (found.value, found.n, found.unit, found.better) == (
            pytest.approx(expected),
            len(aged),
            "years",
            "lower",
        )
        found = one(points, "first", condition, "potassium", "auroc")
        expected = sk.roc_auc_score(
            [row["label_potassium"] for row in tested], [row["potassium_abnormal_probability"] for row in tested]
        )
        assert (found.value, found.n, found.better) == (pytest.approx(expected), len(tested), "higher")
        truth, decided = [row["label_arrhythmia"] for row in rows], [row["arrhythmia"] for row in rows]
        found = one(points, "first", condition, "arrhythmia", "f1_macro")
        assert found.value == pytest.approx(sk.f1_score(truth, decided, average="macro", labels=sorted(set(truth))))
        found = one(points, "first", condition, "arrhythmia", "accuracy")
        assert found.value == pytest.approx(sk.accuracy_score(truth, decided))


def test_clean_figures_are_an_evaluations_exactly(points: list[Point]) -> None:
    expected = evaluate(predicted(CLEAN, 1.6), CONSTANTS, TASKS)["tasks"]
    assert set(expected) == {"rr", "age", "sex", "potassium", "arrhythmia"}
    for task in TASKS:
        for metric in MAIN[task.kind]:
            found = one(points, "plain", CLEAN, task.name, metric)
            assert found.value == expected[task.name][metric]
            assert [found.ci_low, found.ci_high] == expected[task.name][f"{metric}_ci"]
            assert found.difference is found.difference_low is None
            assert one(points, CONSTANT, CLEAN, task.name, metric).value == expected[task.name]["constant"][metric]
    detector = one(points, DETECTOR, CLEAN, "rr", "mae")
    assert {"mae": detector.value, "n": detector.n} == expected["rr"]["median_detected_rr"]


def test_the_difference_is_paired_with_the_same_runs_clean_figure(points: list[Point]) -> None:
    for task in TASKS:
        clean, noisy = (known_arrays(task, predicted(condition, 1.0)) for condition in (CLEAN, NOISY))
        expected = paired_intervals(task.kind, clean.truth, noisy.predicted, clean.predicted, clean.patient_id, seed=0)
        for metric in MAIN[task.kind]:
            found = one(points, "first", NOISY, task.name, metric)
            before = one(points, "first", CLEAN, task.name, metric)
            assert found.value is not None
            assert before.value is not None
            assert found.difference == found.value - before.value
            assert [found.difference_low, found.difference_high] == pytest.approx(expected[f"{metric}_difference_ci"])


def test_a_label_that_is_no_longer_true_is_not_measured(points: list[Point]) -> None:
    tasks = {point.task for point in points if point.perturbation == "premature_beats"}
    assert PERTURBATIONS["premature_beats"].untrue == ("arrhythmia",)
    assert tasks == {"rr", "age", "sex", "potassium"}
    assert "arrhythmia" in {point.task for point in points if point.perturbation == "mains"}


def test_a_metric_that_is_not_defined_has_no_figure() -> None:
    one_class = [
        (condition, table.set_column(table.schema.get_field_index("label_sex"), "label_sex", [[1] * RECORDS]))
        for condition, table in tables()
    ]
    found = [point for point in points_of("first", one_class, CONSTANTS, TASKS) if point.task == "sex"]
    assert len(found) == len(tables()) + 1, "one for each condition, and the constant's"
    assert all(point.value is point.ci_low is point.difference is None for point in found)


def test_refused_records_are_counted(summary: dict[str, Any]) -> None:
    shares = {(each["perturbation"], each["strength"]): each["refused"] for each in summary["refused"]}
    assert shares.pop(tuple(NOISY)) == 9
    assert set(shares.values()) == {0}
    assert tuple(CLEAN) in shares
    assert {each["records"] for each in summary["refused"]} == {RECORDS}


def test_csv_holds_every_point_in_full(points: list[Point]) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(points))))
    assert len(rows) == len(points)
    for row, point in zip(rows, points, strict=True):
        assert row["value"] == str(point.value)
        assert row["difference_low"] == ("" if point.difference_low is None else str(point.difference_low))
        assert row["strength"] == ("" if point.strength is None else str(point.strength))


def test_json_can_hold_the_summary(summary: dict[str, Any]) -> None:
    read = json.loads(json.dumps(summary, allow_nan=False))
    assert read["perturbations"]["mains"]["steps"] == [None, 24, 12, 6, 0]
    assert len(read["points"]) == len(summary["points"])


def test_the_page_says_what_must_be_said(summary: dict[str, Any], drawn: dict[str, bytes]) -> None:
    text = page(summary, drawn)
    assert "SIMULATED DATA" in text
    assert RESEARCH_ONLY in text
    # What comes from a run is escaped.
    assert "Random-initialised backbones: &lt;dlinear&gt;." in text
    assert text.count("data:image/png;base64,") == 6
    # Nothing is fetched from elsewhere.
    assert "http" not in text.replace("http-equiv", "")
    assert "no longer true" not in text
    assert "mains (50 Hz), 0 dB" in text
    assert "premature beats: 3" in text
    for run in ("first", "plain", DETECTOR.replace("'", "&#39;")):
        assert f"<td>{run}</td>" in text


def test_what_got_worse_beyond_doubt_is_marked(summary: dict[str, Any], drawn: dict[str, bytes]) -> None:
    text = page(summary, drawn)
    for task, metric in (("age", "mae"), ("sex", "auroc")):
        noisy = one([Point(**point) for point in summary["points"]], "first", NOISY, task, metric)
        worse = noisy.difference_low > 0 if noisy.better == "lower" else noisy.difference_high < 0
        assert worse, "the example is one of no doubt"
    marked = text.count('<td class="worse">')
    assert marked >= 2
    better = json.loads(json.dumps(summary))
    for point in better["points"]:
        for name in ("difference", "difference_low", "difference_high"):
            point[name] = None if point[name] is None else -abs(point[name]) if point["better"] == "lower" else 1.0
    assert '<td class="worse">' not in page(better, drawn)


def test_pictures_are_the_same_for_the_same_figures(summary: dict[str, Any], drawn: dict[str, bytes]) -> None:
    assert list(drawn) == [
        "rr_mae.png",
        "age_mae.png",
        "sex_auroc.png",
        "potassium_auroc.png",
        "arrhythmia_f1_macro.png",
        "arrhythmia_accuracy.png",
    ]
    assert all(picture.startswith(b"\x89PNG") for picture in drawn.values())
    assert pictures(summary) == drawn


def test_the_terminal_gets_the_worst_of_each_run(summary: dict[str, Any]) -> None:
    lines = text_table(summary).splitlines()
    assert lines[:3] == ["test split of simulated", *(f"! {note}" for note in NOTES)]
    (row,) = [line for line in lines if line.startswith("age") and " plain " in line]
    values = [p["value"] for p in summary["points"] if (p["run"], p["task"]) == ("plain", "age")]
    assert f"{max(values):.2f}" in row
    assert "mains (50 Hz), 0 dB" in row


def test_the_terminal_says_where_nothing_is_worse(summary: dict[str, Any]) -> None:
    same = json.loads(json.dumps(summary))
    for point in same["points"]:
        point["difference"] = None if point["difference"] is None else 0.0
    lines = [line for line in text_table(same).splitlines() if line.startswith("sex")]
    assert len(lines) == 2
    assert all(line.endswith("none is worse than clean") for line in lines)


def test_errors_that_lie_far_apart_have_a_logarithmic_axis(summary: dict[str, Any]) -> None:
    by_task = measured(summary)
    assert _linear_to(summary, by_task["age", "mae"]) is None
    assert _linear_to(summary, by_task["sex", "auroc"]) is None
    apart = json.loads(json.dumps(summary))
    for point in apart["points"]:
        point["value"] *= 20 if point["run"] == "plain" else 1
    smallest = min(p["value"] for p in apart["points"] if (p["run"], p["task"]) == ("first", "age"))
    assert 1 < smallest < 10
    assert _linear_to(apart, measured(apart)["age", "mae"]) == 1.0


def test_a_note_on_one_task_is_not_on_the_pictures_of_others(summary: dict[str, Any], drawn: dict[str, bytes]) -> None:
    noted = {**summary, "notes": [*NOTES, "rr: target derived from the input."]}
    after = pictures(noted)
    assert [name for name in drawn if drawn[name] != after[name]] == ["rr_mae.png"]
    assert "rr: target derived from the input." in page(noted, after)


def test_both_sides_of_a_clean_record_are_ends() -> None:
    steps = {name: {"steps": PERTURBATIONS[name].steps, "at": PERTURBATIONS[name].at} for name in ("gain", "cut")}
    summary = {"perturbations": steps}
    assert hardest(summary) == [("gain", 0.5), ("gain", 2), ("cut", 5)]
    assert [under(*end, summary) for end in hardest(summary)] == ["gain x 0.5", "gain x 2", "cut to 5 s"]


def test_a_prediction_that_is_not_finite_is_an_error() -> None:
    broken = tables()
    condition, table = broken[2]
    ages = table["age_years"].to_numpy().copy()
    ages[:] = np.nan
    broken[2] = condition, table.set_column(table.schema.get_field_index("age_years"), "age_years", [ages])
    with pytest.raises(ValueError, match="predictions of the task age are missing or not finite"):
        list(points_of("first", broken, CONSTANTS, TASKS))
