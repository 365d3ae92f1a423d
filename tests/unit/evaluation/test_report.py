"""The report's files: what a reader sees, what a program reads, and what neither may hold."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from typing import Any

import pytest

from ecgmoe.evaluation.report import RESEARCH_ONLY, report_files, text_table

BINARY = {"auroc": 0.75, "auprc": None, "f1_macro": 0.5, "f1_binary": 0.25}
METRICS: dict[str, Any] = {
    "tasks": {
        "rr": {
            "n": 800_035,
            "mae": 1234.5678,
            "mae_ci": [1000.04, 1500.06],
            "constant": {"mae": 1500.0},
            "beside": {"linear": {"mae": 1300.25, "mae_difference": -65.6822, "mae_difference_ci": [-70.5, 3.25]}},
            "median_detected_rr": {"mae": 1100.25, "n": 799_999},
            "note": "target derived from the input",
        },
        "potassium": {
            "n": 9,
            **BINARY,
            "auroc_ci": [0.5, 1.0],
            "auprc_ci": None,
            "constant": BINARY,
            "beside": {"linear": None},
        },
    },
    "linear": {
        "statistics": 48,
        "training_records": 100_000,
        "tasks": {"rr": {"n": 99_000, "alpha": 1.0}},
        "left_out": {"potassium": "one class in the training split", "age": "no label in the training split"},
    },
}


def test_the_table_fits_a_terminal_and_says_what_must_be_said() -> None:
    lines = text_table(METRICS, "a run", ["SIMULATED DATA"]).splitlines()
    assert lines[:2] == ["a run", "! SIMULATED DATA"]
    # The widest figures and remarks that occur; the longest task has a letter more.
    assert max(len(line) for line in lines) <= 109
    rr = next(line for line in lines if line.startswith("rr"))
    assert " ".join(rr.split()) == (
        "rr 800035 mae (ms) lower 1235 1000 .. 1500 1500 1300 target derived from the input"
    )
    assert "detector's median: 1100" in lines[lines.index(rr) + 1]
    auprc = next(line for line in lines if "auprc" in line)
    assert auprc.split() == ["potassium", "9", "auprc", "higher", "-", "-", "-"]
    assert not any(line.startswith("age") for line in lines)


def test_below_the_table_stands_what_linear_is() -> None:
    # Age has no row, so nothing is said of it.
    assert text_table(METRICS, "a run").splitlines()[-3:] == [
        "",
        "linear: ridge and logistic regression on 48 statistics of rhythm and amplitude of 100,000 training records.",
        "linear: none for potassium, one class in the training split.",
    ]
    assert "of 100,000 training records.  \nlinear: none for" in report_files(METRICS, "a run", [])["report.md"]
    # As during training, and in reports of earlier versions.
    without = copy.deepcopy(METRICS)
    del without["linear"], without["tasks"]["rr"]["beside"], without["tasks"]["potassium"]["beside"]
    assert "linear:" not in text_table(without, "a run")
    assert "1235" in text_table(without, "a run")


def test_markdown_has_one_row_per_line_of_the_table() -> None:
    text = report_files(METRICS, "a run", ["SIMULATED DATA"])["report.md"]
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 2 + 4
    assert {line.count("|") for line in table} == {10}
    assert text.startswith("# a run\n\n**SIMULATED DATA**")
    assert RESEARCH_ONLY in text


def test_csv_names_the_predictor_and_keeps_full_precision() -> None:
    rows = list(csv.DictReader(io.StringIO(report_files(METRICS, "a run", [])["metrics.csv"])))
    model, constant, linear, detected, difference = rows[:5]
    assert (model["predictor"], model["value"], model["unit"]) == ("model", "1234.5678", "ms")
    assert (model["ci_low"], model["ci_high"]) == ("1000.04", "1500.06")
    assert (constant["predictor"], constant["value"], constant["n"]) == ("constant", "1500.0", "800035")
    assert (linear["predictor"], linear["value"], linear["n"]) == ("linear", "1300.25", "800035")
    assert (difference["predictor"], difference["value"]) == ("model - linear", "-65.6822")
    assert (difference["ci_low"], difference["ci_high"]) == ("-70.5", "3.25")
    assert not any(row["predictor"] in ("linear", "model - linear") for row in rows if row["task"] == "potassium")
    assert (detected["predictor"], detected["value"], detected["n"]) == ("median_detected_rr", "1100.25", "799999")
    undefined = next(row for row in rows if row["metric"] == "auprc")
    assert undefined["value"] == undefined["ci_low"] == ""


def test_json_is_the_metrics_and_comes_last() -> None:
    files = report_files(METRICS, "a run", [])
    assert list(files)[-1] == "metrics.json"
    assert json.loads(files["metrics.json"]) == METRICS


def test_nan_never_reaches_a_file() -> None:
    broken = copy.deepcopy(METRICS)
    broken["tasks"]["rr"]["mae"] = math.nan
    with pytest.raises(ValueError):
        report_files(broken, "a run", [])
