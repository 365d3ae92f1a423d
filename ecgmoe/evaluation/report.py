"""The table of the tasks with both baselines beside the model, for a terminal and for files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ecgmoe.tasks import TASK_NAMES, task_table

HIGHER = {"auroc", "auprc", "f1_macro", "f1_binary", "accuracy"}
SHOWN = ("mae", "auroc", "auprc", "f1_macro", "f1_binary", "accuracy", "log_loss")
UNITS = {task.name: task.unit for task in task_table()}
HEADER = ("task", "n", "metric", "better", "model", "95 % interval", "constant", "linear", "remark")
CSV_HEADER = ("task", "metric", "unit", "better", "predictor", "n", "value", "ci_low", "ci_high")
RESEARCH_ONLY = "Research use only: never a diagnosis."


def measured(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Every (task, metric, the task's values), in the order of the table."""
    for task in TASK_NAMES:
        values = metrics["tasks"].get(task, {})
        yield from ((task, metric, values) for metric in SHOWN if metric in values)


def rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per task and metric, in the order of `HEADER`, rounded for reading."""
    table: list[tuple[str, ...]] = []
    for task, metric, values in measured(metrics):
        interval = values.get(f"{metric}_ci")
        start = (task, str(values["n"]), _with_unit(metric, task), _better(metric))
        shown = f"{number(interval[0])} .. {number(interval[1])}" if interval else ""
        others = (number((values.get(name) or {}).get(metric)) for name in ("constant", "linear"))
        table.append((*start, number(values[metric]), shown, *others, values.get("note", "")))
        baseline = values.get("median_detected_rr", {})
        if metric in baseline:
            remark = f"detector's median: {number(baseline[metric])}"
            table.append((task, str(baseline["n"]), *start[2:], "", "", "", "", remark))
    return table


def csv_rows(metrics: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """One row per task, metric and predictor, in the order of `CSV_HEADER`, in full precision."""
    table: list[tuple[Any, ...]] = []
    for task, metric, values in measured(metrics):
        start = (task, metric, UNITS[task] if metric == "mae" else "", _better(metric))
        low, high = values.get(f"{metric}_ci") or (None, None)
        table.append((*start, "model", values["n"], values[metric], low, high))
        for predictor in ("constant", "linear", "median_detected_rr"):
            other = values.get(predictor) or {}
            if metric in other:
                table.append((*start, predictor, other.get("n", values["n"]), other[metric], None, None))
        linear = values.get("linear") or {}
        if (name := f"{metric}_difference") in linear:
            low, high = linear.get(f"{name}_ci") or (None, None)
            table.append((*start, "model - linear", values["n"], linear[name], low, high))
    return table


def footnotes(metrics: Mapping[str, Any]) -> list[str]:
    """What stands below the table: what the linear baseline is, and why a task of the table has none."""
    if "linear" not in metrics:
        return []
    about = metrics["linear"]
    lines = [
        f"linear: ridge and logistic regression on {about['statistics']} statistics of rhythm and amplitude of "
        f"{about['training_records']:,} training records."
    ]
    missing = {task: reason for task, reason in about["left_out"].items() if task in metrics["tasks"]}
    return lines + [f"linear: none for {task}, {reason}." for task, reason in missing.items()]


def text_table(metrics: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """The table for a terminal: a title, the notes that a reader must see, and the rows."""
    table = [HEADER, *rows(metrics)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join([title, *(f"! {note}" for note in notes), "", *lines, *_apart(footnotes(metrics))])


def markdown_table(metrics: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """The same table in Markdown."""
    lines = [f"# {title}", "", *(f"**{note}**  " for note in notes), "", _cells(HEADER), _cells(["---"] * len(HEADER))]
    below = _apart([f"{note}  " for note in footnotes(metrics)])
    return "\n".join([*lines, *(_cells(row) for row in rows(metrics)), *below, "", RESEARCH_ONLY, ""])


def csv_table(metrics: Mapping[str, Any]) -> str:
    """`csv_rows` as text; a metric that is not defined is an empty cell."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([CSV_HEADER, *csv_rows(metrics)])
    return buffer.getvalue()


def report_files(metrics: Mapping[str, Any], title: str, notes: Sequence[str]) -> dict[str, str]:
    """Content of report.txt, report.md, metrics.csv and, last, metrics.json by file name.

    Raises:
        ValueError: a metric is NaN or infinite, which JSON cannot hold.
    """
    return {
        "report.txt": text_table(metrics, title, notes) + "\n",
        "metrics.csv": csv_table(metrics),
        "report.md": markdown_table(metrics, title, notes),
        "metrics.json": json.dumps(metrics, indent=2, allow_nan=False) + "\n",
    }


def _apart(lines: list[str]) -> list[str]:
    """The lines below an empty one, which a table needs to end; nothing where there are none."""
    return ["", *lines] if lines else []


def _better(metric: str) -> str:
    return "higher" if metric in HIGHER else "lower"


def _with_unit(metric: str, task: str) -> str:
    return f"{metric} ({UNITS[task]})" if metric == "mae" else metric


def number(value: float | None) -> str:
    """A figure with about four digits; "-" where it is not defined."""
    return "-" if value is None else f"{value:.{decimals(value)}f}"


def decimals(value: float) -> int:
    """Digits behind the point of a figure of this size."""
    return next((digits for digits, bound in enumerate((1000, 100, 10)) if abs(value) >= bound), 3)


def _cells(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
