"""A record made worse in one way, by so much: what robustness is measured against. docs/ROBUSTNESS.md has the formulas.

Each perturbation is a function of (record, R peaks, strength, seed, name, study_id): a record is spoilt alike on any
worker, in any order and beside any others. At a greater strength the same noise is larger, and the same leads and others
are missing, so that a curve shows the strength and not another draw. A missing sample stays missing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ecgmoe.ecg.beats import Peaks
from ecgmoe.ecg.electrode_noise import Noise, add_noise, baseline_wander, mains, muscle
from ecgmoe.ecg.premature import make_premature
from ecgmoe.ecg.record import LEADS, MISSING, N_LEADS, SAMPLING_RATE_HZ, Signal
from ecgmoe.ecg.samples import with_samples

PERTURB_VERSION = 1
"""Raise it when the same seed gives other records."""

Change = Callable[[Signal, Peaks, float, np.random.Generator], Signal]


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One way to make a record worse.

    Attributes:
        title: for a reader.
        axis: what its strength is, with the unit.
        at: a format that names it at a strength.
        strengths: from the mildest to the hardest, or on both sides of `clean`.
        clean: the strength that would leave a record as it is.
        change: the changed copy of a record.
        untrue: tasks whose label the changed record no longer has; they are not measured.
    """

    title: str
    axis: str
    at: str
    strengths: tuple[float, ...]
    clean: float
    change: Change
    untrue: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[float | None, ...]:
        """Strengths in the order of an axis, None for the clean record."""
        below = tuple(strength for strength in self.strengths if min(self.strengths) < self.clean > strength)
        both = bool(below) and max(self.strengths) > self.clean
        return (*below, None, *self.strengths[len(below) :]) if both else (None, *self.strengths)


class Condition(NamedTuple):
    """A perturbation at a strength; `CLEAN` is none."""

    perturbation: str
    strength: float | None


CLEAN = Condition("clean", None)


def missing_leads(signal: Signal, _: Peaks, count: float, generator: np.random.Generator) -> Signal:
    """So many leads of the record wholly missing, those drawn first."""
    changed = signal.copy()
    changed[generator.permutation(N_LEADS)[: int(count)]] = MISSING
    return changed


def swap_leads(signal: Signal, *_: object) -> Signal:
    """aVL and aVF in each other's place: their order in the files of MIMIC-IV-ECG is not the usual one."""
    changed = signal.copy()
    first, second = LEADS.index("aVL"), LEADS.index("aVF")
    changed[[first, second]] = signal[[second, first]]
    return changed


def scale(signal: Signal, _: Peaks, gain: float, *__: object) -> Signal:
    """All samples times a factor, rounded to the even neighbour and cut at the ends of int16."""
    return with_samples(signal, signal.astype(np.float64) * gain)


def cut_short(signal: Signal, _: Peaks, seconds: float, *__: object) -> Signal:
    """The record as a reader with `pad_short` delivers one that ended after so many seconds."""
    changed = signal.copy()
    changed[:, round(seconds * SAMPLING_RATE_HZ) :] = MISSING
    return changed


def premature(signal: Signal, r_peaks: Peaks, count: float, generator: np.random.Generator) -> Signal:
    """So many of the record's beats made premature (`ecg/premature.py`)."""
    return make_premature(signal, r_peaks, int(count), generator)


def _noisy(title: str, noise: Noise) -> Perturbation:
    return Perturbation(
        title=title,
        axis="signal-to-noise ratio (dB)",
        at=f"{title}, {{:g}} dB",
        strengths=(24.0, 12.0, 6.0, 0.0),
        clean=np.inf,
        change=lambda signal, _, snr_db, generator: add_noise(signal, noise, snr_db, generator),
    )


PERTURBATIONS: dict[str, Perturbation] = {
    "baseline_wander": _noisy("baseline wander", baseline_wander),
    "muscle_noise": _noisy("muscle noise", muscle),
    "mains": _noisy("mains (50 Hz)", mains),
    "missing_leads": Perturbation(
        title="missing leads",
        axis="leads missing",
        at="missing leads: {:g}",
        strengths=(1, 2, 3, 4, 5, 6),
        clean=0,
        change=missing_leads,
    ),
    "lead_swap": Perturbation(
        title="aVF and aVL swapped",
        axis="pairs swapped",
        at="aVF and aVL swapped",
        strengths=(1,),
        clean=0,
        change=swap_leads,
    ),
    "gain": Perturbation(
        title="wrong gain", axis="gain (times)", at="gain x {:g}", strengths=(0.5, 2), clean=1, change=scale
    ),
    "cut": Perturbation(
        title="cut short", axis="length (s)", at="cut to {:g} s", strengths=(5,), clean=10, change=cut_short
    ),
    "premature_beats": Perturbation(
        title="synthetic premature beats",
        axis="beats made premature",
        at="premature beats: {:g}",
        strengths=(1, 2, 3),
        clean=0,
        change=premature,
        untrue=("arrhythmia",),
    ),
}


def conditions(names: Sequence[str]) -> list[Condition]:
    """`CLEAN`, and each of these perturbations at each of its strengths, in the order of `PERTURBATIONS`.

    Raises:
        ValueError: a name is unknown, or is there twice.
    """
    for name in names:
        if name not in PERTURBATIONS:
            raise ValueError(f"unknown perturbation {name!r}: choose from {', '.join(PERTURBATIONS)}")
        if names.count(name) > 1:
            raise ValueError(f"the perturbation {name} is named twice")
    chosen = {name: each for name, each in PERTURBATIONS.items() if name in names}
    return [CLEAN, *(Condition(name, strength) for name, each in chosen.items() for strength in each.strengths)]


def perturb(signal: Signal, r_peaks: Peaks, condition: Condition, *, seed: int, study_id: int) -> Signal:
    """A record under a condition.

    Args:
        signal: int16 (12, 5000), microvolt; not changed.
        r_peaks: of the record.
        condition: of `conditions`.
        seed: at least 0.
        study_id: at least 0.

    Returns:
        A copy, int16 (12, 5000).
    """
    if condition == CLEAN:
        return signal.copy()
    name, strength = condition
    assert strength is not None
    generator = np.random.default_rng((seed, zlib.crc32(name.encode()), study_id))
    return PERTURBATIONS[name].change(signal, r_peaks, strength, generator)
