"""The page of a report: what stands on it, where its figures come from, and that nothing is loaded or left unescaped."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ecgmoe.evaluation.calibration import fit
from ecgmoe.evaluation.calibration_check import calibration_metrics
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.known import known_arrays
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.page import Page, render, render_both
from ecgmoe.evaluation.report import METRICS, number, rows
from ecgmoe.evaluation.routing import routing_summary
from ecgmoe.evaluation.subgroups import class_metrics, confusion, subgroup_metrics
from ecgmoe.evaluation.worst import worst_errors
from ecgmoe.tasks import task_table
from predictions_examples import made_up

TASKS = task_table()
CONSTANTS = Constants(
    median={"rr": 800.0, "age": 55.0},
    prior={"sex": (0.5, 0.5), "potassium": (0.75, 0.25), "arrhythmia": tuple(np.full(15, 1 / 15).tolist())},
)
NOTES = ["SIMULATED DATA: these figures say nothing about real patients.", "Random-initialised backbones: <dlinear>."]


def of(table: pa.Table, **more: Any) -> Page:
    """A page of everything that a predictions table gives."""
    calibration = fit(made_up(TASKS, 100, 0), TASKS, "the validation split of made-up patients")
    other = {"sex": made_up(TASKS, len(table) // 2, 9, skill=0)["sex_female_probability"].to_numpy().astype(float)}
    metrics = {
        **evaluate(table, CONSTANTS, TASKS, beside={"another <run>": other}),
        "calibration": calibration_metrics(table, calibration, TASKS),
        "calibrated_on": calibration.fitted_on,
        "calibrated_on_these": False,
        "not_calibrated": {},
        "subgroups": subgroup_metrics(table, TASKS),
        "confusion": {task.name: found for task in TASKS[2:] if (found := confusion(table, task))["classes"]},
        "classes": class_metrics(table, TASKS[-1]),
    }
    arguments: dict[str, Any] = {
        "title": "a <run>: test split",
        "notes": NOTES,
        "metrics": metrics,
        "predictions": table,
        "tasks": TASKS,
        "beside": {"another <run>": other},
        "routing": routing_summary(table, ["morphology", "rhythm"]),
        "worst": {error.caption: b"picture" for error in worst_errors(table, TASKS)},
        "facts": {"Provenance": {"run": "/data/runs/<first>"}},
    }
    return Page(**{**arguments, **more})


@pytest.fixture(scope="module")
def page() -> Page:
    return of(made_up(TASKS, 60, 1))


class Reader(HTMLParser):
    """Text by tag, and the addresses of everything that a browser would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.loaded: list[str] = []
        self.pictures: dict[str, bytes] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loaded += [values[name] or "" for name in ("src", "srcset", "data") if name in values]
        if tag in ("link", "script", "iframe", "object"):
            self.loaded.append(tag)
        if tag == "img":
            content = (values["src"] or "").partition("base64,")[2]
            self.pictures[values["alt"] or ""] = base64.b64decode(content)

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


@pytest.fixture(scope="module")
def read(page: Page) -> Reader:
    return Reader(render(page))


def test_it_loads_nothing_and_leads_nowhere_else(read: Reader) -> None:
    assert read.loaded
    assert all(address.startswith("data:image/") for address in read.loaded)
    drawings = [picture.decode() for picture in read.pictures.values() if picture.startswith(b"<?xml")]
    assert len(drawings) >= 10
    # The names of SVG's own vocabulary are no addresses that are loaded.
    assert not any(re.search(r'(href|src)="(?!#|data:)', drawing) for drawing in drawings)


def test_what_must_be_said_stands_before_the_first_figure(read: Reader) -> None:
    text = "\n".join(read.text)
    figures = text.index("\nFigures\n", text.index("Research use only") + 200)
    for note in (*NOTES, "Research use only: never a diagnosis."):
        assert 0 < text.index(note) < figures


def test_its_figures_are_those_of_the_json(page: Page, read: Reader) -> None:
    cells = set(read.text)
    for row in rows(page.metrics, METRICS):
        assert set(row) - {""} <= cells
    for entry in page.metrics["calibration"].values():
        if "conformal" in entry:
            assert f"{entry['conformal']['coverage']:.1%}" in cells
    for row in page.metrics["subgroups"]:
        assert number(row["value"]) in cells
    for row in page.metrics["classes"].values():
        assert {number(row["sensitivity"]), number(row["precision"]), number(row["f1"])} <= cells


def test_there_is_a_picture_of_everything(read: Reader) -> None:
    for name in (
        "Bland-Altman plot of RR interval",
        "Bland-Altman plot of age",
        "ROC and precision-recall curves of sex (female)",
        "ROC and precision-recall curves of potassium (abnormal)",
        "Confusion matrix of rhythm",
        "Reliability diagrams",
        "Gate by task",
        "Gate by rhythm",
        "Main metrics by subgroup",
    ):
        assert read.pictures[name].startswith(b"<?xml"), name
    assert sum(picture == b"picture" for picture in read.pictures.values()) == 10


def test_the_same_figures_make_the_same_bytes(page: Page) -> None:
    assert render(page) == render(page)


def test_it_says_where_coverage_proves_nothing(page: Page) -> None:
    assert "never on the records of this report" in render(page)
    own = render(replace(page, metrics={**page.metrics, "calibrated_on_these": True, "not_calibrated": {"rr": "why"}}))
    assert "THESE RECORDS: what they cover here, they cover by construction" in own
    assert "rr has none: why." in own


def test_a_table_with_little_in_it_has_a_page_too() -> None:
    table = made_up(TASKS, 30, 3)
    for task in ("age", "potassium", "arrhythmia"):
        column = table.schema.get_field_index(f"label_{task}")
        table = table.set_column(column, f"label_{task}", pa.nulls(len(table), table.schema.field(column).type))
    women = table.set_column(table.schema.get_field_index("label_sex"), "label_sex", pa.array([1] * 60, pa.int8()))
    read = Reader(render(of(women, routing=None, worst={}, facts={})))
    assert "Bland-Altman plot of RR interval" in read.pictures
    assert not any("ROC" in name or "age" in name or "Gate" in name for name in read.pictures)
    # One class has no AUROC, and a dash says so.
    assert "-" in read.text


def test_the_page_for_a_tracking_server_shows_no_record(page: Page) -> None:
    """The same figures, without ECGs and the studies that they are of."""
    whole, shared = render_both(page)
    assert whole == render(page)
    captions, read = set(page.worst), Reader(shared)
    assert captions <= set(Reader(whole).pictures)
    assert captions.isdisjoint(read.pictures)
    assert base64.b64encode(b"picture").decode() not in shared
    assert "Worst errors" not in shared
    assert set(read.pictures) == set(Reader(whole).pictures) - captions


def test_the_worst_errors_are_the_largest_and_of_different_patients(page: Page) -> None:
    errors = worst_errors(page.predictions, TASKS)
    assert len(errors) == 10
    patients = dict(
        zip(page.predictions["study_id"].to_pylist(), page.predictions["patient_id"].to_pylist(), strict=True)
    )
    for task in TASKS:
        studies = [error.study_id for error in errors if error.task == task.name]
        assert len({patients[study] for study in studies}) == 2
        known = known_arrays(task, page.predictions)
        own = page.predictions["study_id"].to_numpy()[known.rows]
        if task.kind == "multiclass":
            wrong = 1 - known.predicted[np.arange(len(own)), known.truth]
        else:
            wrong = np.abs(known.predicted - known.truth)
        assert studies[0] == own[wrong.argmax()]
        assert wrong[own == studies[1]] >= np.sort(wrong)[-3]
