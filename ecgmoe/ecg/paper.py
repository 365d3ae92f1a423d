"""A 12-lead ECG drawn on ECG paper: 25 mm/s, 10 mm/mV, three rows of four leads and lead II as rhythm strip."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ecgmoe.ecg.record import DURATION_S, LEADS, MISSING, SAMPLING_RATE_HZ, UV_PER_MV, Signal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS: tuple[tuple[str, ...], ...] = (
    ("I", "aVR", "V1", "V4"),
    ("II", "aVL", "V2", "V5"),
    ("III", "aVF", "V3", "V6"),
    ("II",),
)
MM_PER_S, MM_PER_MV = 25, 10
ROW_MM = 30
MARGIN_MM = 5
WHOLE_MM_PER_MV, WHOLE_ROW_MM = 5, 13
"""Where every lead is drawn whole."""
_GRID = ((1, "#f6d5d5", 0.3), (5, "#e8a5a5", 0.5))
"""Millimetres between the lines, their colour and width."""
_CALIBRATION_MM = 8
_START_MM = MARGIN_MM + _CALIBRATION_MM
WIDTH_MM = _START_MM + DURATION_S * MM_PER_S + MARGIN_MM
HEIGHT_MM = len(ROWS) * ROW_MM + 2 * MARGIN_MM
WHOLE_HEIGHT_MM = len(LEADS) * WHOLE_ROW_MM + 2 * MARGIN_MM


def draw_ecg(axes: Axes, signal: Signal, r_peaks: Sequence[int] = (), title: str = "") -> None:
    """Draw a canonical record into matplotlib axes, to scale where the axes keep their aspect.

    Args:
        axes: to draw in.
        signal: int16 (12, 5000), microvolt; missing samples are gaps.
        r_peaks: samples; marked under the rhythm strip.
        title: above the paper.
    """
    _draw_paper(axes, HEIGHT_MM)
    for row, leads in enumerate(ROWS):
        baseline = HEIGHT_MM - MARGIN_MM - (row + 0.5) * ROW_MM
        # The calibration pulse: 1 mV for 200 ms.
        pulse = MARGIN_MM + np.array([0, 1, 1, 6, 6, 7])
        axes.plot(pulse, baseline + MM_PER_MV * np.array([0, 0, 1, 1, 0, 0]), color="black", linewidth=0.6)
        columns = np.array_split(np.arange(signal.shape[1]), len(leads))
        for lead, samples in zip(leads, columns, strict=True):
            millivolt = _around_median(signal, lead)[samples]
            x = across_mm(samples / SAMPLING_RATE_HZ)
            # A spike of many millivolt would cross the other rows.
            y = baseline + (MM_PER_MV * millivolt).clip(-ROW_MM, ROW_MM)
            axes.plot(x, y, color="black", linewidth=0.6)
            axes.text(x[0] + 1, baseline + 0.36 * ROW_MM, _name(lead, millivolt), fontsize=7, weight="bold")
    marks = across_mm(np.asarray(r_peaks, dtype=np.float64) / SAMPLING_RATE_HZ)
    axes.plot(marks, np.full(len(marks), MARGIN_MM + 1.0), linestyle="none", marker="^", markersize=3, color="#1f6fb2")
    axes.set_title(title, fontsize=8, loc="left")


def draw_whole_leads(axes: Axes, signal: Signal) -> None:
    """Draw all 10 s of every lead, one below the other, at half the height: 25 mm/s, 5 mm/mV.

    Args:
        axes: to draw in.
        signal: int16 (12, 5000), microvolt; missing samples are gaps.
    """
    _draw_paper(axes, WHOLE_HEIGHT_MM)
    x = across_mm(np.arange(signal.shape[1]) / SAMPLING_RATE_HZ)
    for lead, baseline in zip(LEADS, whole_lead_mm(), strict=True):
        millivolt = _around_median(signal, lead)
        y = baseline + (WHOLE_MM_PER_MV * millivolt).clip(-WHOLE_ROW_MM, WHOLE_ROW_MM)
        axes.plot(x, y, color="black", linewidth=0.6)
        axes.text(1, baseline, _name(lead, millivolt).replace(" ", "\n"), fontsize=7, weight="bold", va="center")


def whole_lead_mm() -> npt.NDArray[np.floating]:
    """Height of each lead's middle in `draw_whole_leads`, in mm from the lower edge, in the order of `LEADS`."""
    return WHOLE_HEIGHT_MM - MARGIN_MM - (np.arange(len(LEADS)) + 0.5) * WHOLE_ROW_MM


def _draw_paper(axes: Axes, height: float) -> None:
    for step, colour, line in _GRID:
        axes.vlines(np.arange(0, WIDTH_MM + 1, step), 0, height, colors=colour, linewidths=line, zorder=0)
        axes.hlines(np.arange(0, height + 1, step), 0, WIDTH_MM, colors=colour, linewidths=line, zorder=0)
    axes.set(xlim=(0, WIDTH_MM), ylim=(0, height), aspect="equal", xticks=[], yticks=[])


def _around_median(signal: Signal, lead: str) -> npt.NDArray[np.floating]:
    """A lead in mV around its own median, so that a drifting baseline stays in its row; missing samples as NaN."""
    microvolt = signal[LEADS.index(lead)].astype(np.float64)
    microvolt[microvolt == MISSING] = np.nan
    level = np.nanmedian(microvolt) if np.isfinite(microvolt).any() else 0.0
    return (microvolt - level) / UV_PER_MV


def _name(lead: str, millivolt: npt.NDArray[np.floating]) -> str:
    return lead if np.isfinite(millivolt).any() else f"{lead} (missing)"


def across_mm(seconds: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Where moments of the record lie on the paper, in mm from its left edge; the same in every row."""
    return _START_MM + seconds * MM_PER_S


def shade_rhythm_strip(axes: Axes, windows_s: npt.NDArray[np.floating], colours: Sequence[tuple[float, ...]]) -> None:
    """Shade windows of time behind the rhythm strip of `draw_ecg`, below the lines of its paper.

    Args:
        axes: that `draw_ecg` drew in.
        windows_s: (N, 2) beginning and end in s; what lies beyond the record is not drawn.
        colours: (N,), each as red, green, blue and opacity in 0..1.
    """
    left, right = across_mm(windows_s.clip(0, DURATION_S)).T
    bars = axes.bar(left, ROW_MM, right - left, MARGIN_MM, align="edge", color=list(colours), zorder=-1)
    for each in bars:
        # So that windows that touch stay two, and one without weight is seen.
        each.set(edgecolor="#5b83ab", linewidth=0.7)


def ecg_svg(signal: Signal, r_peaks: Sequence[int] = ()) -> bytes:
    """A canonical record on ECG paper as an SVG picture, which stays sharp when it is enlarged."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="tight")
    draw_ecg(figure.add_subplot(), signal, r_peaks)
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Creator": None, "Date": None})
    return picture.getvalue()


def ecg_png(signal: Signal, r_peaks: Sequence[int] = (), title: str = "") -> bytes:
    """A canonical record on ECG paper as a PNG picture, the same bytes for the same record."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="tight")
    draw_ecg(figure.add_subplot(), signal, r_peaks, title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()
