"""The table of the tasks with the constant predictor beside the model, for a terminal and for files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ecgmoe.tasks import TASK_NAMES

HIGHER = {"auroc", "auprc", "f1_macro", "f1_binary", "accuracy"}
SHOWN = ("mae", "auroc", "auprc", "f1_macro", "f1_binary", "accuracy", "log_loss")
UNITS = {"rr": "ms", "age": "years"}
HEADER = ("task", "n", "metric", "better", "model", "95 % interval", "constant", "remark")


def rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per task and metric, in the order of `HEADER`."""
    table = []
    for task in TASK_NAMES:
        values = metrics["tasks"].get(task)
        if values is None:
            continue
        for metric in SHOWN:
            if metric in values:
                table.append(_row(task, metric, values))
        if "median_detected_rr" in values:
            detected = values["median_detected_rr"]
            remark = "baseline: median of the detected RR"
            table.append((task, str(detected["n"]), "mae (ms)", "lower", _number(detected["mae"]), "", "", remark))
    return table


def _row(task: str, metric: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    interval = values.get(f"{metric}_ci")
    name = f"{metric} ({UNITS[task]})" if metric == "mae" and task in UNITS else metric
    return (
        task,
        str(values["n"]),
        name,
        "higher" if metric in HIGHER else "lower",
        _number(values[metric]),
        f"{_number(interval[0])} .. {_number(interval[1])}" if interval else "",
        _number(values["constant"].get(metric)),
        values.get("note", ""),
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def text_table(metrics: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """The table for a terminal: a title, the notes that a reader must see, and the rows."""
    table = [HEADER, *rows(metrics)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join([title, *(f"! {note}" for note in notes), "", *lines])


def markdown_table(metrics: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """The same table in Markdown."""
    lines = [f"# {title}", "", *(f"**{note}**  " for note in notes), "", _cells(HEADER), _cells(["---"] * len(HEADER))]
    return "\n".join([*lines, *(_cells(row) for row in rows(metrics)), "", RESEARCH_ONLY, ""])


RESEARCH_ONLY = "Research use only: never a diagnosis."


def _cells(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


def report_files(metrics: Mapping[str, Any], title: str, notes: Sequence[str]) -> dict[str, str]:
    """Content of report.txt, report.md, metrics.csv and, last, metrics.json by file name."""
    csv = "\n".join(",".join(f'"{cell}"' for cell in row) for row in [HEADER, *rows(metrics)])
    return {
        "report.txt": text_table(metrics, title, notes) + "\n",
        "metrics.csv": csv + "\n",
        "report.md": markdown_table(metrics, title, notes),
        "metrics.json": json.dumps(metrics, indent=2, allow_nan=False) + "\n",
    }
