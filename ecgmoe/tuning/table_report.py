"""A table as the paper prints it, in Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ecgmoe.evaluation.report import (
    HIGHER,
    IN_UNIT,
    METRICS,
    RESEARCH_ONLY,
    UNITS,
    better,
    decimals,
    difference_rows,
    markdown_rows,
    number,
    with_unit,
)
from ecgmoe.tuning.page import Part
from ecgmoe.tuning.paper import PAPER
from ecgmoe.tuning.paper import ROWS as PAPER_ROWS
from ecgmoe.tuning.table_figures import Figures
from ecgmoe.tuning.tables import Table

Rows = list[tuple[str, ...]]

ROWS = (*PAPER_ROWS, ("sex", "auroc"), ("potassium", "auroc"), ("arrhythmia", "f1_macro"))
"""Task and metric of each row: the paper's, and those that class frequencies do not decide."""
NO_FIGURE = "failed"
CSV_HEADER = (
    "table",
    "variant",
    "task",
    "metric",
    "unit",
    "better",
    "split",
    "finished_cells",
    "wanted_cells",
    "seeds",
    "mean",
    "sd",
    "ci_low",
    "ci_high",
    "reference",
    "reference_minus_this",
    "difference_ci_low",
    "difference_ci_high",
    "parameters",
    "records_per_s",
    "memory_gb",
)
_PAPER_TEXT = (
    "Printed by the paper for 10,000 patients of MIMIC-IV-ECG: another dataset, other backbones' weights, other labels. Not to "
    "be compared with the figures above. It does not say which F1 it means; its values suggest macro-F1."
)


def table_rows(table: Table, figures: Mapping[str, Figures]) -> Rows:
    """The head and a row per metric and cost: mean ± standard deviation over seeds, the best in bold."""
    # Its constant is of all records.
    some = max(figures.values(), key=lambda each: each.finished / each.wanted, default=None)
    rows: Rows = [("task", "metric", "better", *table.variants, "constant")]
    for task, metric in ROWS:
        if some is None or task not in some.pooled["tasks"]:
            continue
        means = {name: figures[name].mean(task, metric) if name in figures else None for name in table.variants}
        known = [value for name, value in means.items() if value is not None and figures[name].whole]
        best = (max if metric in HIGHER else min)(known, default=None)
        cells = []
        for name, value in means.items():
            text = NO_FIGURE if name not in figures else _spread(value, figures[name].spread(task, metric))
            if name in figures and not figures[name].whole:
                # Of other records than its neighbours: shown, not ranked.
                text = f"({text})"
            elif value is not None and number(value) == number(best):
                # All that a reader cannot tell from the best.
                text = f"**{text}**"
            cells.append(text)
        constant = number(some.pooled["tasks"][task]["constant"].get(metric))
        rows.append((task, with_unit(metric, task), better(metric), *cells, constant))
    for name, attribute in (
        ("finished cells", "finished"),
        ("parameters", "parameters"),
        ("records/s", "records_per_s"),
        ("memory (GB)", "memory_gb"),
    ):
        costs = [
            getattr(figures[each] if attribute == "finished" else figures[each].cost, attribute)
            if each in figures
            else None
            for each in table.variants
        ]
        rows.append(("training", name, "", *(_cost(value) for value in costs), ""))
    return rows


def interval_rows(table: Table, figures: Mapping[str, Figures]) -> Rows:
    """The head and, by task and metric, the 95 % interval over patients of all seeds together."""
    shown = [name for name in table.variants if name in figures]
    rows: Rows = [("task", "metric", *shown)]
    for task, metric in ROWS:
        found = [figures[name].pooled["tasks"].get(task, {}).get(f"{metric}_ci") for name in shown]
        if any(found):
            cells = [f"{number(each[0])} .. {number(each[1])}" if each else "-" for each in found]
            rows.append((task, with_unit(metric, task), *cells))
    return rows


def paper_rows(name: str) -> Rows:
    """The head and the rows of the paper's own table; nothing where it has none of that name."""
    columns = PAPER.get(name)
    if not columns:
        return []
    rows: Rows = [("task", "metric", *columns)]
    for place, (task, metric) in enumerate(PAPER_ROWS):
        rows.append((task, with_unit(metric, task), *(each[place] for each in columns.values())))
    return rows


def csv_text(table: Table, figures: Mapping[str, Figures], metrics: Mapping[str, Any], *, split: str) -> str:
    """One row per variant, task and metric in full precision; what is not defined is an empty cell.

    `mean` and `sd` are over seeds. Intervals and differences are of all seeds' predictions together, which for AUROC, AUPRC
    and the calibration error is not the mean over seeds.

    Args:
        table: that is written.
        figures: of its variants; one without any has one row that says so.
        metrics: as `table_figures.compared` returned it.
        split: what was predicted.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for name in table.variants:
        if name not in figures:
            writer.writerow((table.name, name, NO_FIGURE))
            continue
        own = figures[name]
        costs = (own.cost.parameters, own.cost.records_per_s, own.cost.memory_gb)
        for task, values in own.pooled["tasks"].items():
            beside = (metrics["tasks"].get(task, {}).get("beside", {}).get(name)) or {}
            for metric in METRICS:
                if metric not in values:
                    continue
                difference = beside.get(f"{metric}_difference")
                writer.writerow(
                    (
                        table.name,
                        name,
                        task,
                        metric,
                        UNITS[task] if metric in IN_UNIT else "",
                        better(metric),
                        split,
                        own.finished,
                        own.wanted,
                        len(own.seeds),
                        own.mean(task, metric),
                        own.spread(task, metric),
                        *(values.get(f"{metric}_ci") or (None, None)),
                        table.reference if difference is not None else None,
                        difference,
                        *(beside.get(f"{metric}_difference_ci") or (None, None)),
                        *costs,
                    )
                )
    return buffer.getvalue()


def latex(rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table for LaTeX with booktabs; a cell in ** is bold."""
    columns = "ll" + "r" * (len(rows[0]) - 2)
    head, *body = [" & ".join(map(_latex_cell, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex_text(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def parts(
    table: Table,
    figures: Mapping[str, Figures],
    metrics: Mapping[str, Any],
    *,
    about: str,
    failures: Sequence[str],
) -> list[Part]:
    """The sections of a table's page: the table, what failed, intervals, paired differences, the paper's own figures.

    Args:
        table: that is shown.
        figures: of its variants, without those that have no finished cell.
        metrics: as `table_figures.compared` returned it.
        about: what mean and spread are over.
        failures: a line for each cell that failed.
    """
    found = [Part(heading=table.title, text=about, rows=table_rows(table, figures))]
    if failures:
        found.append(Part(heading="Trainings that failed", rows=[("training", "reason"), *map(_failure, failures)]))
    if figures:
        text = "95 % intervals, drawn over patients, of the predictions of all seeds together."
        found.append(Part(heading="Intervals", text=text, rows=interval_rows(table, figures)))
    differences = difference_rows(metrics, table.reference)
    heading = f"{table.reference} against the others"
    if len(differences) > 1:
        text = (
            "Paired over patients, on the seeds and folds that both have: no difference is shown where the interval holds 0. "
            "Predictions of all seeds together."
        )
        found.append(Part(heading=heading, text=text, rows=differences))
    else:
        text = f"{table.reference} and the others have no finished seed and fold in common."
        found.append(Part(heading=heading, text=text))
    if rows := paper_rows(table.name):
        found.append(Part(heading="The paper's own figures", text=_PAPER_TEXT, rows=rows))
    return found


def markdown(title: str, notes: Sequence[str], sections: Sequence[Part]) -> str:
    """Sections without pictures as Markdown."""
    lines = [f"# {title}", "", *(f"**{note}**  " for note in notes)]
    for part in sections:
        lines += ["", f"## {part.heading}", *(["", part.text] if part.text else [])]
        lines += ["", markdown_rows(part.rows)] if part.rows else []
    return "\n".join([*lines, "", RESEARCH_ONLY, ""])


def _failure(line: str) -> tuple[str, str]:
    run, _, reason = line.partition(": ")
    return run, reason.replace("|", "/")


def _spread(mean: float | None, sd: float | None) -> str:
    if mean is None or sd is None:
        return number(mean)
    return f"{number(mean)} ± {sd:.{decimals(mean)}f}"


def _cost(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else number(value)


def _latex_cell(cell: str) -> str:
    text = _latex_text(cell.strip("*"))
    return rf"\textbf{{{text}}}" if cell.startswith("**") else text


def _latex_text(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    for sign in "&%_#${}":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("±", r"$\pm$").replace("~", r"\textasciitilde ").replace("^", r"\textasciicircum ")
