"""The curves of `robustness.summary_of` as pictures, as one self-contained HTML page, and as a table for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ecgmoe.ecg.perturb import CLEAN
from ecgmoe.evaluation.report import RESEARCH_ONLY, decimals, number
from ecgmoe.evaluation.robustness import CONSTANT, DETECTOR
from ecgmoe.html_page import data_url, environment
from ecgmoe.tasks import TASK_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's, which people with any colour vision tell apart; then grey."""
MARKERS = "osD^vPX*"
COLUMNS = 4
LOG_FROM = 10.0
"""Ratio of the runs' largest to their smallest error from which the axis is logarithmic."""

Summary = Mapping[str, Any]
Points = dict[tuple[str, str, float | None], Mapping[str, Any]]
"""Of one task and metric, by run, perturbation and strength."""


def measured(summary: Summary) -> dict[tuple[str, str], Points]:
    """The points by task and metric, in the order in which they were measured."""
    found: dict[tuple[str, str], Points] = {}
    for point in summary["points"]:
        place = point["run"], point["perturbation"], point["strength"]
        found.setdefault((point["task"], point["metric"]), {})[place] = point
    return found


def hardest(summary: Summary) -> list[tuple[str, float]]:
    """The ends of every perturbation: its last step and, where the clean record lies between, its first too."""
    ends = []
    for name, each in summary["perturbations"].items():
        first, *_, last = each["steps"]
        ends += [(name, step) for step in (first, last) if step is not None]
    return ends


def pictures(summary: Summary) -> dict[str, bytes]:
    """A PNG picture of small multiples for every task and metric, by file name."""
    return {f"{task}_{metric}.png": _picture(summary, points) for (task, metric), points in measured(summary).items()}


def _picture(summary: Summary, points: Points) -> bytes:
    from matplotlib.figure import Figure

    names = list(summary["perturbations"])
    rows = -(-len(names) // COLUMNS)
    columns = min(COLUMNS, len(names))
    figure = Figure(figsize=(max(3.1 * columns, 6.5), 2.5 * rows + 1.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    any_point = next(iter(points.values()))
    linear_to = _linear_to(summary, points)
    for axes, name in zip(panels.flat, names, strict=False):
        _draw(axes, summary, points, name)
        if linear_to:
            axes.set_yscale("symlog", linthresh=linear_to)
            axes.yaxis.set_major_formatter("{x:g}")
    for axes in panels.flat[len(names) :]:
        axes.axis("off")
    for row in panels:
        row[0].set_ylabel(f"{named(any_point)}\n{any_point['better']} is better", fontsize=8)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=min(len(labels), columns + 1), fontsize=8, frameon=False
    )
    task = any_point["task"]
    of_others = tuple(f"{name}: " for name in TASK_NAMES if name != task)
    notes = [note for note in summary["notes"] if not note.startswith(of_others)]
    title = "\n".join([f"{task}: {summary['title']}", *notes])
    figure.suptitle(title, fontsize=8, x=0.01, ha="left", wrap=True, parse_math=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


def _linear_to(summary: Summary, points: Points) -> float | None:
    """Where an axis of errors becomes logarithmic, a power of ten; None where it is linear throughout.

    Of errors alone one can be too small to be seen beside another. An error may be 0.
    """
    values = [p["value"] for place, p in points.items() if place[0] in summary["runs"] and p["metric"] == "mae"]
    if not values or min(values) <= 0 or max(values) < LOG_FROM * min(values):
        return None
    return float(10 ** np.floor(np.log10(min(values))))


def _draw(axes: Axes, summary: Summary, points: Points, name: str) -> None:
    """One panel: a line for each run, the clean record among the steps."""
    about = summary["perturbations"][name]
    steps = about["steps"]
    places = [CLEAN if step is None else (name, step) for step in steps]
    first = next(iter(summary["runs"]))
    for run, colour, marker in _looks(summary, points):
        line = [points.get((run, *place)) for place in places]
        there = [x for x, point in enumerate(line) if point and point["value"] is not None]
        if not there:
            continue
        chosen = [point for x, point in enumerate(line) if x in there and point]
        width, style = (2.2, "-") if run == first else (1.1, "--" if run == DETECTOR else "-")
        axes.plot(
            there,
            [p["value"] for p in chosen],
            style,
            color=colour,
            marker=marker,
            ms=3.5,
            lw=width,
            label=run,
            zorder=3,
        )
        if run == first and all(point["ci_low"] is not None for point in chosen):
            low, high = ([point[bound] for point in chosen] for bound in ("ci_low", "ci_high"))
            axes.fill_between(there, low, high, color=colour, alpha=0.13, lw=0, label=f"{run}: 95 % interval")
    constant = points.get((CONSTANT, *CLEAN))
    if constant and constant["value"] is not None:
        axes.axhline(constant["value"], color="#7f7f7f", lw=1, ls=":", label="best constant")
    if not any((run, name, step) in points for run in summary["runs"] for step in steps):
        axes.text(
            0.5,
            0.5,
            "not measured: its label\nis no longer true",
            ha="center",
            va="center",
            transform=axes.transAxes,
            fontsize=8,
        )
    axes.set_title(about["title"], fontsize=9)
    axes.set_xlabel(about["axis"], fontsize=8)
    axes.set_xticks(range(len(steps)), ["clean" if step is None else f"{step:g}" for step in steps])
    axes.set_xlim(-0.3, len(steps) - 0.7)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#e3e8ee", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _looks(summary: Summary, points: Points) -> list[tuple[str, str, str]]:
    """Run, colour and marker of each line; the detector's own is grey."""
    runs = list(summary["runs"])
    looks = [(run, COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]) for n, run in enumerate(runs)]
    return [*looks, (DETECTOR, "#5b6b7a", "")] if any(place[0] == DETECTOR for place in points) else looks


def named(point: Mapping[str, Any]) -> str:
    """A metric with its unit."""
    name = {"mae": "mean absolute error", "auroc": "AUROC", "f1_macro": "macro-F1"}.get(
        point["metric"], point["metric"]
    )
    return f"{name} ({point['unit']})" if point["unit"] else name


def under(name: str, strength: float | None, summary: Summary) -> str:
    """A condition for a reader, such as "muscle noise, 0 dB"."""
    return "clean" if strength is None else summary["perturbations"][name]["at"].format(strength)


def page(summary: Summary, drawn: Mapping[str, bytes]) -> str:
    """The page. Everything that comes from a run or its data is escaped."""
    templates = environment("ecgmoe.evaluation")
    templates.filters["number"] = lambda value: f"{value:,}"
    ends = hardest(summary)
    parts = [
        {
            "title": f"{task}: {named(next(iter(points.values())))}",
            "better": next(iter(points.values()))["better"],
            "picture": data_url(drawn[f"{task}_{metric}.png"]),
            "rows": [
                {"run": run, "cells": [_cell(points.get((run, *place))) for place in (CLEAN, *ends)]}
                for run in (*summary["runs"], DETECTOR)
                if (run, *CLEAN) in points
            ],
        }
        for (task, metric), points in measured(summary).items()
    ]
    return templates.get_template("robustness.html").render(
        summary=summary,
        parts=parts,
        columns=["clean", *(under(*end, summary) for end in ends)],
        refused=[(under(each["perturbation"], each["strength"], summary), each) for each in summary["refused"]],
        research_only=RESEARCH_ONLY,
    )


def _cell(point: Mapping[str, Any] | None) -> dict[str, Any]:
    """Value, difference to the clean figure, and whether its interval says that the run got worse."""
    cell: dict[str, Any] = {"value": "-", "difference": "", "worse": False}
    if point is None or point["value"] is None:
        return cell
    cell["value"] = number(point["value"])
    if point["difference_low"] is not None:
        # As exact as the value, so that what rounding does to a sum is no difference.
        digits = decimals(point["value"])
        names = ("difference", "difference_low", "difference_high")
        middle, low, high = (round(point[name], digits) + 0.0 for name in names)
        cell["difference"] = f"{middle:+.{digits}f} ({low:+.{digits}f} .. {high:+.{digits}f})"
        cell["worse"] = high < 0 if point["better"] == "higher" else low > 0
    return cell


def text_table(summary: Summary) -> str:
    """For a terminal: each run's clean figure and that under which it is worst, with the interval of the difference."""
    header = ("task", "metric", "run", "clean", "worst", "under", "worst - clean")
    rows = [header]
    for (task, metric), points in measured(summary).items():
        for run in summary["runs"]:
            clean = points.get((run, *CLEAN))
            others = [p for place, p in points.items() if place[0] == run and p["difference"] is not None]
            if not clean or not others:
                continue
            sign = 1 if clean["better"] == "lower" else -1
            worst = max(others, key=lambda p: sign * p["value"])
            unit = f"{metric} ({clean['unit']})" if clean["unit"] else metric
            start = (task, unit, run, number(clean["value"]))
            if sign * worst["difference"] <= 0:
                rows.append((*start, "-", "none is worse than clean", ""))
                continue
            condition = under(worst["perturbation"], worst["strength"], summary)
            rows.append((*start, number(worst["value"]), condition, _cell(worst)["difference"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join([summary["title"], *(f"! {note}" for note in summary["notes"]), "", *lines])
