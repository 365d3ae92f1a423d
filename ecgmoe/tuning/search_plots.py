"""Pictures of a search: its options side by side, lambda against each task, learning curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ecgmoe.evaluation.plots import BLUE, GREY, ORANGE, svg
from ecgmoe.training.progress import MAIN_METRIC
from ecgmoe.tuning.space import LAMBDA, Choice, Domain, Range, Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ecgmoe.tuning.tried import Tried


def parallel_coordinates(tried: Sequence[Tried], winner: Tried, space: Space) -> str:
    """SVG: one axis per option and one for the score, one line per trial; the winner in another colour."""
    scored = [each for each in tried if each.score is not None]
    names = [*space, "score"]
    scores = [each.score or 0.0 for each in scored]
    low, high = min(scores), max(scores)
    figure, axes = _figure(max(6.0, 1.5 * len(names)), 4.2)
    for place, domain in enumerate(space.values()):
        axes.axvline(place, color=GREY, linewidth=0.8)
        for where, text in _marks(domain):
            axes.annotate(text, (place, where), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center")
    axes.axvline(len(names) - 1, color=GREY, linewidth=0.8)
    for where, value in ((0.0, low), (1.0, high)):
        axes.annotate(f"{value:.3f}", (len(names) - 1, where), xytext=(3, 0), textcoords="offset points", fontsize=7)
    for each in sorted(scored, key=lambda trial: trial.run == winner.run):
        heights = [_height(space[option], each.values[option]) for option in space]
        heights.append(((each.score or 0.0) - low) / (high - low) if high > low else 0.5)
        best = each.run == winner.run
        axes.plot(heights, color=ORANGE if best else BLUE, linewidth=2.2 if best else 1.0, alpha=1.0 if best else 0.55)
    axes.set_xticks(range(len(names)), [name.rpartition(".")[2].replace("_", "\n") for name in names], fontsize=8)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    return svg(figure)


def lambda_by_task(tried: Sequence[Tried], winner: Tried, domain: Domain) -> str:
    """SVG: lambda on a logarithmic axis against the main metric of each task at the trial's best epoch."""
    tasks = [f"{task}_{metric}" for task, metric in MAIN_METRIC.items()]
    shown = [name for name in tasks if any(name in each.curve for each in tried)]
    figure = Figure(figsize=(3.0 * max(1, len(shown)), 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, max(1, len(shown)), squeeze=False)[0], shown, strict=False):
        for each in tried:
            values, scores = each.curve.get(name, []), each.curve.get("score", [])
            if not values or not scores:
                continue
            at = min(int(np.argmax(scores)), len(values) - 1)
            best = each.run == winner.run
            axes.scatter(each.values[LAMBDA], values[at], s=26, color=ORANGE if best else BLUE)
        axes.set_xscale("log")
        if isinstance(domain, Range):
            axes.set_xlim(domain.low / 1.3, domain.high * 1.3)
        axes.set_xlabel("lambda", fontsize=9)
        axes.set_title(name.replace("_", " ", 1), fontsize=9)
        _plain(axes)
    return svg(figure)


def learning_curves(tried: Sequence[Tried], winner: Tried) -> str:
    """SVG: validation score of every trial by epoch; the winner in another colour."""
    figure, axes = _figure(7.0, 3.4)
    for each in sorted(tried, key=lambda trial: trial.run == winner.run):
        scores = each.curve.get("score", [])
        best = each.run == winner.run
        axes.plot(
            range(1, len(scores) + 1),
            scores,
            color=ORANGE if best else BLUE,
            linewidth=2.2 if best else 1.0,
            # One epoch alone would not be seen.
            marker="." if len(scores) < 2 else "",
            alpha=1.0 if best else 0.55,
        )
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("validation score", fontsize=9)
    return svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e3e8ee", linewidth=0.6)
    axes.set_axisbelow(True)


def _height(domain: Domain, value: Any) -> float:
    """Where a value stands on its axis, 0 to 1."""
    if isinstance(domain, Choice):
        choices = [json.dumps(each) for each in domain.values]
        return choices.index(json.dumps(value)) / max(1, len(choices) - 1)
    if domain.log:
        return math.log(value / domain.low) / math.log(domain.high / domain.low)
    return (value - domain.low) / (domain.high - domain.low)


def _marks(domain: Domain) -> list[tuple[float, str]]:
    values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    return [(_height(domain, value), _short(value)) for value in values]


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')
    return text if len(text) <= 16 else f"{text[:15]}…"
