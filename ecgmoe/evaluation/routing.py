"""Which experts a trained model uses: by task, by rhythm class, and how far the tasks differ."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.evaluation.columns import label_column, routing_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

Load = npt.NDArray[np.floating]


def entropy(load: Load) -> float:
    """Entropy of a load (E,), divided by that of an even one: 1 where all experts are used alike, 0 for one alone."""
    if len(load) < 2:
        return 1.0
    return float(-(load * np.log(load.clip(min=1e-12))).sum()) / math.log(len(load))


def distance(first: Load, second: Load) -> float:
    """Total variation between two loads: 0 where they are the same, 1 where they share no expert."""
    return float(np.abs(first - second).sum()) / 2


def routing_summary(predictions: pa.Table, experts: Sequence[str]) -> dict[str, Any] | None:
    """Mean gates (Eq. 3) over the records of a predictions table.

    Args:
        predictions: with a column of gates for each task, see `routing_column`.
        experts: names, in the order of the gates.

    Returns:
        by_task: each task's load by expert; entropy of each; distance between each two tasks; and by_rhythm_class: the
        load of the task arrhythmia over the records of each labelled class, with their number. None without gates.
    """
    tasks = [name.removeprefix(routing_column("")) for name in predictions.schema.names if _is_routing(name)]
    if not tasks:
        return None
    loads = {task: _gates(predictions, task).mean(0) for task in tasks}
    summary: dict[str, Any] = {
        "experts": list(experts),
        "by_task": {task: _named(load, experts) for task, load in loads.items()},
        "entropy": {task: entropy(load) for task, load in loads.items()},
        "distance": {f"{a} - {b}": distance(loads[a], loads[b]) for a, b in combinations(tasks, 2)},
    }
    label = label_column("arrhythmia")
    if "arrhythmia" in tasks and label in predictions.schema.names:
        classes = sorted(pc.unique(predictions[label]).drop_null().to_pylist())
        rows = {name: predictions.filter(pc.equal(predictions[label], name)) for name in classes}
        summary["by_rhythm_class"] = {
            name: {"records": len(table), **_named(_gates(table, "arrhythmia").mean(0), experts)}
            for name, table in rows.items()
        }
    return summary


def _is_routing(name: str) -> bool:
    return name.startswith(routing_column(""))


def _gates(predictions: pa.Table, task: str) -> Load:
    column = predictions[routing_column(task)].combine_chunks()
    return column.values.to_numpy().reshape(len(column), -1).astype(np.float64)


def _named(load: Load, experts: Sequence[str]) -> dict[str, float]:
    return dict(zip(experts, load.tolist(), strict=True))


def heat_maps(summary: Mapping[str, Any], title: str) -> dict[str, bytes]:
    """Pictures of a summary by file name: expert x task, and expert x rhythm class where labels are known."""
    pictures = {"routing_by_task.png": _heat_map(summary["by_task"], summary["experts"], f"{title}\ngate by task")}
    if classes := summary.get("by_rhythm_class"):
        rows = {f"{name} ({values['records']})": values for name, values in classes.items()}
        pictures["routing_by_rhythm_class.png"] = _heat_map(
            rows, summary["experts"], f"{title}\ngate of the task arrhythmia, by labelled class (records)"
        )
    return pictures


def draw_gates(
    axes: Axes, rows: Mapping[str, Mapping[str, float]], experts: Sequence[str], fontsize: float = 9
) -> AxesImage:
    """Draw weights of experts (columns) by name of a row, each with its number; returns what a colour bar needs."""
    values = np.array([[row[expert] for expert in experts] for row in rows.values()])
    image = axes.imshow(values, cmap="Blues", vmin=0, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        colour = "white" if values[row, column] > 0.6 * values.max() else "black"
        text = f"{values[row, column]:.2f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=fontsize + 1)
    names = [name.replace("_", " ", 1).replace("_", "-") for name in experts]
    axes.set_xticks(range(len(experts)), names, fontsize=fontsize)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=fontsize)
    return image


def _heat_map(rows: Mapping[str, Mapping[str, float]], experts: Sequence[str], title: str) -> bytes:
    from matplotlib.figure import Figure

    # Room for the longest row name beside one inch for each expert's.
    width = 1.4 + 0.08 * max(len(name) for name in rows) + 1.1 * len(experts)
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, round(11 * width))]
    figure = Figure(figsize=(width, 1.3 + 0.16 * len(lines) + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    image = draw_gates(axes, rows, experts)
    axes.set_title("\n".join(lines), fontsize=9, loc="left", parse_math=False)
    figure.colorbar(image, ax=axes, label="mean weight")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()
