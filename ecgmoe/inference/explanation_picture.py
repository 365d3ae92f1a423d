"""An explained ECG as a picture: on ECG paper its beats, leads and moments, below them predictions and gates."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from ecgmoe.ecg.beats import median_rr_ms
from ecgmoe.ecg.paper import (
    HEIGHT_MM,
    MARGIN_MM,
    MM_PER_MV,
    MM_PER_S,
    WHOLE_HEIGHT_MM,
    WIDTH_MM,
    across_mm,
    draw_ecg,
    shade_rhythm_strip,
)
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.ecg.record import DURATION_S
from ecgmoe.evaluation.routing import draw_gates
from ecgmoe.inference.attribution import Attribution
from ecgmoe.inference.attribution_picture import draw_lead_sums, draw_moment_scale, draw_moments
from ecgmoe.inference.explanation import Explanation, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

WARNING = "Research use only: never a diagnosis."
INCH_MM = 25.4
EDGE_MM, LINE_MM, SCALE_MM, PANEL_MM = 5.0, 5.0, 11.0, 42.0
"""Around everything; a line of the head; the scale of the shades; the panels of predictions and of gates."""
SUMS_MM = 42.0
"""Bars of the leads' sums, beside the paper."""
MOMENTS_MM = 5.0 + WHOLE_HEIGHT_MM + 18.0
"""Leads and moments: a gap, the paper, what the colours mean."""
GATES_FROM_MM = 150.0
HEAD_CHARACTERS = 130
MOST_NUMBERS = 20
"""Beats up to which each has its weight written above it."""


def explained_png(
    explanation: Explanation,
    record: UsableRecord,
    *,
    task: str,
    name: str,
    note: str = "",
    attribution: Attribution | None = None,
) -> bytes:
    """Draw an explained record.

    Args:
        explanation: of the record.
        record: its signal and R peaks.
        task: whose weights of the beats are drawn.
        name: of the record.
        note: what a reader must know and the model folder cannot tell, such as that the record is simulated.
        attribution: of the record; None leaves leads and moments out.

    Returns:
        A PNG picture, the same bytes for the same explanation.
    """
    from matplotlib.figure import Figure

    head = head_lines(explanation, task=task, name=name, note=note, moments=attribution is not None)
    moments = MOMENTS_MM if attribution else 0.0
    width, below = WIDTH_MM + 2 * EDGE_MM, 2 * EDGE_MM + PANEL_MM + SCALE_MM + moments
    if attribution:
        width += SUMS_MM
    height = below + HEIGHT_MM + LINE_MM * (len(head) + 1)
    figure = Figure(figsize=(width / INCH_MM, height / INCH_MM))
    for number, line in enumerate(head):
        size, weight = (10, "bold") if number == 0 else (8.5, "normal")
        y = 1 - LINE_MM * (number + 1.2) / height
        figure.text(EDGE_MM / width, y, line, fontsize=size, weight=weight, parse_math=False)
    paper = _axes(figure, EDGE_MM, below, WIDTH_MM, HEIGHT_MM)
    draw_ecg(paper, record.signal, record.r_peaks.tolist())
    paper.text(MARGIN_MM, HEIGHT_MM - 1, f"{MM_PER_S} mm/s, {MM_PER_MV} mm/mV", fontsize=6, va="top")
    draw_beats(paper, explanation, task)
    draw_scale(_axes(figure, EDGE_MM, below - SCALE_MM, WIDTH_MM, SCALE_MM), explanation, record, task)
    if attribution:
        bottom = below - SCALE_MM - EDGE_MM - WHOLE_HEIGHT_MM
        draw_moments(_axes(figure, EDGE_MM, bottom, WIDTH_MM, WHOLE_HEIGHT_MM), attribution, record)
        draw_lead_sums(_axes(figure, EDGE_MM + WIDTH_MM, bottom, SUMS_MM, WHOLE_HEIGHT_MM), attribution)
        words = MOMENTS_MM - EDGE_MM - WHOLE_HEIGHT_MM
        draw_moment_scale(_axes(figure, EDGE_MM, bottom - words, width - 2 * EDGE_MM, words), attribution)
    draw_predictions(_axes(figure, EDGE_MM, EDGE_MM, GATES_FROM_MM, PANEL_MM), explanation, record, task)
    left = EDGE_MM + GATES_FROM_MM
    draw_experts(_axes(figure, left, EDGE_MM + 6, width - left - EDGE_MM, PANEL_MM - 12), explanation, task)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()


def head_lines(explanation: Explanation, *, task: str, name: str, note: str, moments: bool = False) -> list[str]:
    """What stands above the paper: what it is, and what a reader must not overlook."""
    if explanation.beat_weights:
        what = f"attention over the beats for the task {task}"
    else:
        what = "no attention is drawn, because this model has no path over the beats"
    if moments:
        what += "; below it what leads and moments add"
    lines = [f"{name}: {what}", note]
    if explanation.random_backbones:
        lines.append(f"Random-initialised backbones: {', '.join(explanation.random_backbones)}.")
    if late := explanation.late_backbones:
        lines.append(
            f"{explanation.late_share:.0%} of each prediction comes from heads that read {', '.join(late)} alone: "
            "beats and gates say nothing of it."
        )
    return [part for line in [*lines, WARNING] for part in textwrap.wrap(line, HEAD_CHARACTERS)]


def draw_beats(paper: Axes, explanation: Explanation, task: str) -> None:
    """Shade the beats behind the rhythm strip by their weights for a task."""
    windows, weights = explanation.windows_s, explanation.beat_weights.get(task)
    if weights is None or not len(weights):
        return
    shade_rhythm_strip(paper, windows, [tuple(colour) for colour in _shades(weights).to_rgba(weights)])
    if len(weights) <= MOST_NUMBERS:
        middles = across_mm(windows.clip(0, DURATION_S).mean(1))
        for x, weight in zip(middles, weights, strict=True):
            paper.text(x, MARGIN_MM - 0.8, f"{weight:.0%}", fontsize=6.5, ha="center", va="top", color="#1b4f8a")


def draw_scale(axes: Axes, explanation: Explanation, record: UsableRecord, task: str) -> None:
    """What the shades mean, in words and as a bar."""
    axes.axis("off")
    if not explanation.beat_weights:
        return
    weights = explanation.beat_weights[task]
    none = f'"no beat" has {explanation.no_beat_weight[task]:.0%}'
    if not len(weights):
        axes.text(0, 0.75, f"No R peak was found: {none}.", fontsize=8, va="top")
        return
    text = "Triangles: R peaks. Windows: what the model reads of each beat, in the shade of the beat's weight for the task\n"
    text += f"{task} (sum over the experts of gate x attention). {none}; an even share would be {_even(weights):.0%} (dashed)."
    if len(weights) < len(record.r_peaks):
        text += f"\nThis model reads the first {len(weights)} beats of a record."
    axes.text(0, 0.75, text, fontsize=8, va="top")
    bar = axes.inset_axes((0.69, 0.45, 0.3, 0.28))
    shades = _shades(weights)
    axes.figure.colorbar(shades, cax=bar, orientation="horizontal", format=lambda value, _: f"{value:.0%}")
    bar.tick_params(labelsize=7, length=2)
    bar.axvline(_even(weights), color="black", linewidth=0.8, linestyle="--")


def draw_predictions(axes: Axes, explanation: Explanation, record: UsableRecord, task: str) -> None:
    """A table of what the model says for every task."""
    axes.axis("off")
    axes.text(0, 1, "Predictions", fontsize=9, weight="bold", va="top")
    detected = median_rr_ms(record.r_peaks)
    lines = explanation.lines()
    for number, (name, text) in enumerate(lines):
        if name == "rr" and detected is not None:
            text += f" (median of the detected RR: {detected:.0f} ms)"
        y = 0.84 - 0.12 * number
        weight = "bold" if name == task else "normal"
        repeated = number > 0 and lines[number - 1][0] == name
        axes.text(0, y, "" if repeated else name, fontsize=8.5, va="top", weight=weight)
        axes.text(0.16, y, text, fontsize=8.5, va="top", parse_math=False)


def draw_experts(axes: Axes, explanation: Explanation, task: str) -> None:
    """Gates by task and expert, with the share of the whole periodic path in the tasks' names."""
    if not explanation.gates:
        axes.axis("off")
        return
    rows = {name: dict(zip(explanation.experts, gates, strict=True)) for name, gates in explanation.gates.items()}
    draw_gates(axes, rows, explanation.experts, fontsize=7)
    title = "Gate over the experts by task (Eq. 3)"
    if explanation.periodic_share:
        names = [f"{name} (experts {explanation.periodic_share[name]:.0%})" for name in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=7)
        title += "; in brackets what all experts weigh beside the backbones (Eq. 4)"
    axes.set_title(title, fontsize=8, loc="right")
    axes.get_yticklabels()[list(rows).index(task)].set_fontweight("bold")


def _even(weights: Floats) -> float:
    """Where every beat and "no beat" weigh alike."""
    return 1 / (len(weights) + 1)


def _shades(weights: Floats) -> ScalarMappable:
    """From 0 to twice an even share at least, so that weights that are nearly even look even, and of middling weight."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    # Without the dark end, on which the black line would be lost.
    blues = ListedColormap(colormaps["Blues"](np.linspace(0, 0.55, 256)))
    return ScalarMappable(Normalize(0, max(float(weights.max()), 2 * _even(weights))), blues)


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in mm from the lower left corner."""
    across, up = figure.get_size_inches() * INCH_MM
    return figure.add_axes((left / across, bottom / up, width / across, height / up))
