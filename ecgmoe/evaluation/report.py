"""The table of the tasks with the baselines and other predictors beside the model, for a terminal and for files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ecgmoe.evaluation.absent import absent_lines
from ecgmoe.tasks import TASK_NAMES, task_table

HIGHER = {"auroc", "auprc", "sensitivity_at_90_specificity", "f1_macro", "f1_binary", "accuracy"}
NEAR_ZERO = {"bias", "loa_low", "loa_high"}
IN_UNIT = {"mae", "rmse", *NEAR_ZERO}
SHOWN = ("mae", "auroc", "auprc", "f1_macro", "f1_binary", "accuracy", "log_loss")
"""Metrics of the table for a terminal, in order; the files have `METRICS`."""
METRICS = (
    "mae",
    "rmse",
    "bias",
    "loa_low",
    "loa_high",
    "auroc",
    "auprc",
    "sensitivity_at_90_specificity",
    "f1_macro",
    "f1_binary",
    "accuracy",
    "log_loss",
    "ece",
)
READABLE = {
    "loa_low": "lower limit of agreement",
    "loa_high": "upper limit of agreement",
    "sensitivity_at_90_specificity": "sensitivity at 0.9 specificity",
    "ece": "calibration error",
}
UNITS = {task.name: task.unit for task in task_table()}
LINEAR = "linear"
"""Name of the linear baseline among the predictors beside the model."""
CSV_HEADER = ("task", "metric", "unit", "better", "predictor", "n", "value", "ci_low", "ci_high")
RESEARCH_ONLY = "Research use only: never a diagnosis."


def measured(
    metrics: Mapping[str, Any], names: Sequence[str] = METRICS
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Every (task, metric, the task's values) of these metrics, in the order of the table."""
    for task in TASK_NAMES:
        values = metrics["tasks"].get(task, {})
        yield from ((task, metric, values) for metric in names if metric in values)


def predictors(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the predictors beside the model, in their order."""
    return tuple(dict.fromkeys(name for values in metrics["tasks"].values() for name in values.get("beside", {})))


def header(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the columns of `rows`."""
    return ("task", "n", "metric", "better", "model", "95 % interval", "constant", *predictors(metrics), "remark")


def rows(metrics: Mapping[str, Any], names: Sequence[str] = SHOWN) -> list[tuple[str, ...]]:
    """One row per task and metric, in the order of `header`, rounded for reading."""
    table: list[tuple[str, ...]] = []
    beside = predictors(metrics)
    for task, metric, values in measured(metrics, names):
        interval = values.get(f"{metric}_ci")
        start = (task, str(values["n"]), with_unit(metric, task), better(metric))
        shown = f"{number(interval[0])} .. {number(interval[1])}" if interval else ""
        others = [(values.get("beside", {}).get(name) or {}).get(metric) for name in beside]
        constant = values["constant"].get(metric)
        remark = values.get("note", "")
        table.append((*start, number(values[metric]), shown, *map(number, [constant, *others]), remark))
        baseline = values.get("median_detected_rr", {})
        if metric in baseline:
            remark = f"detector's median: {number(baseline[metric])}"
            table.append((task, str(baseline["n"]), *start[2:], *[""] * (3 + len(beside)), remark))
    return table


def csv_rows(metrics: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """One row per task, metric and predictor, in the order of `CSV_HEADER`, in full precision."""
    table: list[tuple[Any, ...]] = []
    for task, metric, values in measured(metrics):
        start = (task, metric, UNITS[task] if metric in IN_UNIT else "", better(metric))
        low, high = values.get(f"{metric}_ci") or (None, None)
        table.append((*start, "model", values["n"], values[metric], low, high))
        beside = {name: found or {} for name, found in values.get("beside", {}).items()}
        others = {"constant": values["constant"], **beside}
        detector = {"median_detected_rr": values.get("median_detected_rr", {})}
        for predictor, found in (others | detector).items():
            if metric in found:
                table.append((*start, predictor, found.get("n", values["n"]), found[metric], None, None))
        for predictor, found in (beside | detector).items():
            if (name := f"{metric}_difference") in found:
                low, high = found.get(f"{name}_ci") or (None, None)
                n = found.get("n", values["n"])
                table.append((*start, f"model - {predictor}", n, found[name], low, high))
    return table


def difference_table(metrics: Mapping[str, Any], model: str) -> str:
    """`difference_rows` in Markdown."""
    return markdown_rows(difference_rows(metrics, model)) + "\n"


def difference_rows(metrics: Mapping[str, Any], model: str) -> list[tuple[str, ...]]:
    """The head, and the model's figures minus those of each predictor beside it, with paired 95 % intervals."""
    table: list[tuple[str, ...]] = [("task", "metric", "better", f"{model} minus", "difference", "95 % interval", "")]
    for task, metric, values in measured(metrics, SHOWN):
        for name in predictors(metrics):
            found = values.get("beside", {}).get(name) or {}
            difference, interval = (found.get(f"{metric}_difference{end}") for end in ("", "_ci"))
            if difference is None or not interval:
                continue
            shown = f"{number(interval[0])} .. {number(interval[1])}"
            verdict = _verdict(metric, *interval)
            table.append((task, with_unit(metric, task), better(metric), name, number(difference), shown, verdict))
    return table


def _verdict(metric: str, low: float, high: float) -> str:
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (low > 0) == (metric in HIGHER) else "worse"


def footnotes(metrics: Mapping[str, Any]) -> list[str]:
    """What stands below the table: what it has no figures for, RR against the detector, what the linear baseline is."""
    lines = absent_lines(metrics)
    detector = metrics["tasks"].get("rr", {}).get("median_detected_rr", {})
    if interval := detector.get("mae_difference_ci"):
        lines.append(
            f"rr: mae of the model minus that of the detector's median {number(detector['mae_difference'])} ms, 95 % interval "
            f"{number(interval[0])} .. {number(interval[1])}: {_verdict('mae', *interval)}."
        )
    if LINEAR not in metrics:
        return lines
    about = metrics[LINEAR]
    lines += [
        f"linear: ridge and logistic regression on {about['statistics']} statistics of rhythm and amplitude of "
        f"{about['training_records']:,} training records."
    ]
    missing = {task: reason for task, reason in about["left_out"].items() if task in metrics["tasks"]}
    return lines + [f"linear: none for {task}, {reason}." for task, reason in missing.items()]


def text_table(metrics: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """The table for a terminal: a title, the notes that a reader must see, and the rows."""
    table = [header(metrics), *rows(metrics)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join([title, *(f"! {note}" for note in notes), "", *lines, *_apart(footnotes(metrics))])


def markdown_table(metrics: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """The same table in Markdown."""
    lines = [f"# {title}", "", *(f"**{note}**  " for note in notes), ""]
    below = _apart([f"{note}  " for note in footnotes(metrics)])
    return "\n".join([*lines, markdown_rows([header(metrics), *rows(metrics)]), *below, "", RESEARCH_ONLY, ""])


def markdown_rows(table: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its first row the header; nothing where there is no row."""
    if not table:
        return ""
    names, *others = table
    return "\n".join([_cells(names), _cells(["---"] * len(names)), *map(_cells, others)])


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


def better(metric: str) -> str:
    """In which direction a metric is better."""
    if metric in NEAR_ZERO:
        return "near 0"
    return "higher" if metric in HIGHER else "lower"


def with_unit(metric: str, task: str) -> str:
    """A metric as a reader wants it named, with the task's unit where it has one."""
    name = READABLE.get(metric, metric)
    return f"{name} ({UNITS[task]})" if metric in IN_UNIT else name


def number(value: float | None) -> str:
    """Four digits that count, and "-" for what is not defined."""
    return "-" if value is None else f"{value:.{decimals(value)}f}"


def decimals(value: float) -> int:
    """Digits behind the point of a figure of this size."""
    return next((digits for digits, bound in enumerate((1000, 100, 10)) if abs(value) >= bound), 3)


def _cells(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
