"""Plots of a report as SVG: curves from the predictions, and pictures of figures that are in metrics.json too."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from ecgmoe.evaluation.bootstrap import SPECIFICITY
from ecgmoe.evaluation.known import Known
from ecgmoe.evaluation.routing import draw_gates
from ecgmoe.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7a8794"
"""Of Okabe and Ito's palette, which colour-blind readers tell apart."""
TITLES = {
    "rr": "RR interval",
    "age": "age",
    "sex": "sex (female)",
    "potassium": "potassium (abnormal)",
    "arrhythmia": "rhythm",
}
MAX_POINTS = 5000
"""Points of a scatter plot: more are a blot, and a page of many megabytes."""

Values = npt.NDArray[Any]


def svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same figure."""
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "ecgmoe", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _axes(width: float, height: float, count: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=9)
        each.grid(color="#e3e8ee", linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def bland_altman(task: Task, known: Known, values: Mapping[str, Any]) -> Figure:
    """Error against the mean of label and prediction, with bias and limits of agreement (Bland and Altman, Lancet 1986).

    Args:
        task: of the kind regression.
        known: its labels and predictions.
        values: its entry in metrics.json.
    """
    figure, (axes,) = _axes(5.2, 3.8)
    chosen = np.random.default_rng(0).permutation(len(known.truth))[:MAX_POINTS]
    error = known.predicted - known.truth
    middle = (known.predicted + known.truth) / 2
    # A few errors far off would press all others onto the line: they stay in the figures, and are counted here.
    edge = 3 * max(abs(values["loa_low"]), abs(values["loa_high"]))
    beyond = int((np.abs(error) > edge).sum())
    axes.scatter(
        middle[chosen],
        error[chosen].clip(-edge, edge),
        s=9,
        alpha=0.45,
        color=BLUE,
        linewidths=0,
        rasterized=len(chosen) > 1500,
    )
    for name, style in (("bias", "-"), ("loa_low", "--"), ("loa_high", "--")):
        axes.axhline(values[name], color=ORANGE, linestyle=style, linewidth=1.2)
        label = "bias" if name == "bias" else "limit"
        axes.annotate(
            f"{label} {values[name]:+.3g}",
            (1, values[name]),
            xycoords=("axes fraction", "data"),
            fontsize=9,
            color=ORANGE,
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel(f"mean of label and prediction ({task.unit})")
    axes.set_ylabel(f"prediction - label ({task.unit})")
    rest = f"; {beyond} beyond the frame, at its edge" if beyond else ""
    axes.set_title(f"{TITLES[task.name]}, {len(error):,} records{rest}", fontsize=10, loc="left")
    return figure


def roc_and_pr(task: Task, known: Known, values: Mapping[str, Any], beside: Mapping[str, Values]) -> Figure:
    """ROC and precision-recall curves of a binary task, the model's in front of the others'.

    Args:
        task: of the kind binary.
        known: its labels and predictions; both classes occur.
        values: its entry in metrics.json.
        beside: probabilities of other predictors for the same records.
    """
    figure, (roc, pr) = _axes(9.4, 4.0, 2)
    curves = {**beside, "model": known.predicted}
    colours = dict(zip(beside, (GREY, "#009e73", "#cc79a7", "#56b4e9"), strict=False))
    for name, probability in curves.items():
        entry = values if name == "model" else values["beside"][name]
        look: dict[str, Any] = {
            "color": ORANGE if name == "model" else colours.get(name, GREY),
            "linewidth": 2 if name == "model" else 1.2,
        }
        false, true, _ = roc_curve(known.truth, probability)
        roc.plot(false, true, label=f"{name} ({entry['auroc']:.3f})", **look)
        precision, recall, _ = precision_recall_curve(known.truth, probability)
        pr.step(recall, precision, where="post", label=f"{name} ({entry['auprc']:.3f})", **look)
    share = float(known.truth.mean())
    roc.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    sensitivity = values["sensitivity_at_90_specificity"]
    roc.plot(
        1 - SPECIFICITY,
        sensitivity,
        "o",
        color="black",
        markersize=5,
        label=f"sensitivity {sensitivity:.2f} at specificity 0.90",
    )
    pr.axhline(share, color=GREY, linestyle=":", linewidth=1, label=f"chance ({share:.3f})")
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(0, 1.02))
    pr.set(xlabel="recall (sensitivity)", ylabel="precision", xlim=(-0.01, 1.01), ylim=(0, 1.02))
    roc.set_title(f"{TITLES[task.name]}: ROC (AUROC), {len(known.truth):,} records", fontsize=10, loc="left")
    pr.set_title(f"{TITLES[task.name]}: precision-recall (AUPRC)", fontsize=10, loc="left")
    roc.legend(fontsize=8, loc="lower right")
    pr.legend(fontsize=8, loc="best")
    return figure


def reliability_diagram(entries: Mapping[str, Mapping[str, Any]], before: Mapping[str, float]) -> Figure:
    """Frequency against confidence, before and after the temperature, with the number of records behind each point.

    Args:
        entries: by task its entry of `calibration_metrics`, those with probabilities.
        before: by task the model's own calibration error.
    """
    figure, each_axes = _axes(3.6 * len(entries), 3.9, len(entries))
    for axes, (task, entry) in zip(each_axes, entries.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        for name, colour, error in (("model", GREY, before[task]), ("calibrated", ORANGE, entry["ece"])):
            points = entry["reliability"][name]
            sizes = [4 + 60 * each["n"] / max(point["n"] for point in points) for each in points]
            x, y = ([each[key] for each in points] for key in ("confidence", "frequency"))
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.35)
            axes.scatter(x, y, s=sizes, color=colour, label=f"{name}, ECE {error:.3f}", zorder=3)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        binary = task != "arrhythmia"
        axes.set_xlabel("predicted probability" if binary else "probability of the likeliest class")
        axes.set_ylabel("observed frequency" if binary else "share that is right")
        axes.set_title(f"{TITLES[task]}, T = {entry['temperature']:.2f}", fontsize=10, loc="left")
        legend = axes.legend(fontsize=8, loc="upper left")
        for handle in legend.legend_handles:
            handle.set_sizes([20])  # type: ignore[union-attr]
    return figure


def confusion_matrix(title: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Shares of each labelled class that were taken for which; classes without a label have no row."""
    values = np.array(counts)
    total = values.sum(1)
    labelled = np.flatnonzero(total)
    share = values[labelled] / total[labelled, None]
    names = [name.replace("_", " ") for name in classes]
    figure = Figure(figsize=(0.52 * len(classes) + 3.4, 0.46 * max(len(labelled), 4) + 2.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(share):
        text = f"{share[row, column]:.0%}" if share[row, column] >= 0.005 else "<1%"
        colour = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(classes)), names, rotation=90 if len(classes) > 3 else 0, fontsize=9)
    axes.set_yticks(range(len(labelled)), [f"{names[row]} ({total[row]:,})" for row in labelled], fontsize=9)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label (records)")
    axes.set_title(title, fontsize=10, loc="left")
    figure.colorbar(image, ax=axes, label="share of the label's records", shrink=0.8)
    return figure


def subgroup_plot(rows: Sequence[Mapping[str, Any]], overall: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """The main metric of every task by group, with its interval, beside that of all records.

    Args:
        rows: of `subgroup_metrics`.
        overall: by task {"metric", "value"} of all records.
    """
    shown = [row for row in rows if row["value"] is not None]
    names = list(dict.fromkeys((row["by"], row["group"]) for row in shown))
    tasks = [task for task in overall if any(row["task"] == task for row in shown)]
    if not tasks:
        return None
    position = {name: -index - 0.7 * _blocks(names, index) for index, name in enumerate(names)}
    figure = Figure(figsize=(2.2 + 1.9 * len(tasks), 1.1 + 0.24 * (len(names) + 3)), layout="constrained")
    columns = list(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0])
    for axes, task in zip(columns, tasks, strict=True):
        axes.axvline(overall[task]["value"], color=GREY, linewidth=1, linestyle=":")
        for row in (row for row in shown if row["task"] == task):
            y = position[row["by"], row["group"]]
            axes.plot(row["ci"], [y, y], color=BLUE, linewidth=1.4)
            axes.plot(row["value"], y, "o", color=BLUE, markersize=4)
        axes.set_title(f"{TITLES[task]}\n{overall[task]['name']}", fontsize=9, loc="left")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=8, left=False)
        axes.grid(axis="y", color="#eef1f4")
        axes.set_axisbelow(True)
    columns[0].set_yticks(
        [position[name] for name in names], [group.replace("_", " ") for _, group in names], fontsize=8
    )
    return figure


def _blocks(names: Sequence[tuple[str, str]], index: int) -> int:
    """Number of kinds of groups before this one's."""
    return len(dict.fromkeys(by for by, _ in names[: index + 1])) - 1


def gates(rows: Mapping[str, Mapping[str, float]], experts: Sequence[str], title: str) -> Figure:
    """Mean weights of the experts, a row for each name."""
    width = 1.6 + 0.08 * max(len(name) for name in rows) + 1.0 * len(experts)
    figure = Figure(figsize=(width, 1.0 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = draw_gates(axes, rows, experts)
    axes.set_title(title, fontsize=10, loc="left")
    figure.colorbar(image, ax=axes, label="mean weight")
    return figure
