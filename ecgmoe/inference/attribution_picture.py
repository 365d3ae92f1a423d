"""Leads and moments of an attribution on ECG paper: all 10 s of every lead, each small square in the colour of what it adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ecgmoe.ecg.paper import (
    MARGIN_MM,
    MM_PER_S,
    WHOLE_HEIGHT_MM,
    WHOLE_MM_PER_MV,
    WHOLE_ROW_MM,
    across_mm,
    draw_whole_leads,
    whole_lead_mm,
)
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.ecg.record import DURATION_S, LEADS, SAMPLING_RATE_HZ
from ecgmoe.inference.attribution import BASELINE_HZ, Attribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

WINDOW_MS = 40
"""A small square of the paper."""
_SHADED = 0.99
"""Quantile of the windows at which the colours end, so that one spike does not pale all others."""


def draw_moments(paper: Axes, attribution: Attribution, record: UsableRecord) -> None:
    """Draw the record, and behind each lead what its windows add."""
    draw_whole_leads(paper, record.signal)
    values = attribution.windows(_window())
    across = across_mm(np.linspace(0, DURATION_S, values.shape[1] + 1))
    up = WHOLE_HEIGHT_MM - MARGIN_MM - np.arange(len(LEADS) + 1) * WHOLE_ROW_MM
    colours = _colours(attribution)
    low, high = colours.get_clim()
    paper.pcolormesh(across, up, values, cmap=colours.cmap, vmin=low, vmax=high, zorder=-1)
    paper.text(MARGIN_MM, WHOLE_HEIGHT_MM - 1, f"{MM_PER_S} mm/s, {WHOLE_MM_PER_MV} mm/mV", fontsize=6, va="top")


def draw_lead_sums(axes: Axes, attribution: Attribution) -> None:
    """A bar for each lead beside its row: what all of it adds."""
    sums = list(attribution.leads.values())
    at, widest = whole_lead_mm(), max(map(abs, sums)) or 1.0
    axes.barh(at, sums, height=0.5 * WHOLE_ROW_MM, color=_colours(attribution, ends=True).to_rgba(np.sign(sums)))
    axes.axvline(0, color="black", linewidth=0.6)
    for y, value in zip(at, sums, strict=True):
        axes.text(
            value,
            y,
            f" {number(value)} ",
            fontsize=7,
            va="center",
            ha="left" if value >= 0 else "right",
            parse_math=False,
        )
    # Room for the numbers on either side.
    axes.set(xlim=(-1.7 * widest, 1.7 * widest), ylim=(0, WHOLE_HEIGHT_MM), yticks=[], xticks=[])
    axes.set_title(f"Sum of each lead ({attribution.unit})", fontsize=8)
    axes.spines[["left", "right", "top", "bottom"]].set_visible(False)


def draw_moment_scale(axes: Axes, attribution: Attribution) -> None:
    """What was measured, in words, and the colours as a bar."""
    axes.axis("off")
    lines = attribution_lines(attribution)
    for row, line in enumerate(lines):
        warns = attribution.large_error and row == len(lines) - 1
        axes.text(
            0, 0.95 - 0.25 * row, line, fontsize=8, va="top", weight="bold" if warns else "normal", parse_math=False
        )
    bar = axes.inset_axes((0.74, 0.45, 0.24, 0.2))
    axes.figure.colorbar(_colours(attribution), cax=bar, orientation="horizontal", extend="both")
    bar.tick_params(labelsize=7, length=2)
    bar.set_title(f"lowers | raises, {attribution.unit} per {WINDOW_MS} ms", fontsize=7, pad=2)


def attribution_lines(attribution: Attribution) -> list[str]:
    """Method, baseline, steps, and by how much the parts add up to something else."""
    lines = [
        f"Leads and moments: integrated gradients of {what_of(attribution)}, in {attribution.unit} per {WINDOW_MS} ms. "
        "Orange raises it, purple lowers it.",
        f"From {number(attribution.baseline_output, sign=False)} without beats (each lead below {BASELINE_HZ:g} Hz, R peaks "
        f"held) to {number(attribution.output, sign=False)}: the parts should add up to {number(attribution.change)}.",
        f"They miss it by {number(attribution.error)} {attribution.unit}{_share(attribution)}, with {attribution.steps} "
        "gradients along the way.",
    ]
    if attribution.large_error:
        lines.append("That error is large: read no lead and no moment as a part of the change. More --steps may help.")
    return lines


def what_of(attribution: Attribution) -> str:
    """The output that is explained, in words."""
    if attribution.class_name is None:
        return f"the prediction of {attribution.task}"
    return f"the log-odds of {attribution.class_name} ({attribution.task})"


def number(value: float, *, sign: bool = True) -> str:
    """Three digits, with its sign where it is a part or a difference."""
    return f"{value:+.3g}" if sign else f"{value:.3g}"


def _share(attribution: Attribution) -> str:
    if not attribution.change:
        return ""
    share = abs(attribution.error / attribution.change)
    return f" ({'under 0.1%' if share < 0.001 else f'{share:.1%}'} of the change)"


def _window() -> int:
    return WINDOW_MS * SAMPLING_RATE_HZ // 1000


def _colours(attribution: Attribution, *, ends: bool = False) -> ScalarMappable:
    """Orange for what raises and purple for what lowers, told apart by every kind of colour vision.

    Args:
        attribution: its windows decide where the colours end.
        ends: for the numbers -1 and 1 instead.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    # Without the dark ends, on which the black line would be lost.
    colours = ListedColormap(colormaps["PuOr_r"](np.linspace(0.18, 0.82, 255)))
    most = 1.0 if ends else float(np.quantile(np.abs(attribution.windows(_window())), _SHADED)) or 1.0
    return ScalarMappable(Normalize(-most, most), colours)
