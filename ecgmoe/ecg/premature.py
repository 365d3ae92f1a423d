"""Premature beats made from a record's own beats. They are synthetic: the shape of no real ectopic beat.

A beat with a neighbour on either side comes early, as a ventricular premature beat does: at 0.55 to 0.74 of its RR
interval, without a P wave before it, its QRS stretched from 100 to 180 ms, its ST segment and T wave turned over. The next
beat stays where it is, so the pause is fully compensatory. All leads go the same way along the time axis, so that the
relations between them stay, and what is heard of noise between the beats is the record's own.
"""

from __future__ import annotations

import numpy as np

from ecgmoe.ecg.beats import Peaks
from ecgmoe.ecg.record import MISSING, Signal
from ecgmoe.ecg.samples import Floats, filled, with_samples

COUPLING = (0.55, 0.74)
"""Of the RR interval that the beat cuts short, as in the simulator."""
# Samples at 500 Hz from here on.
EARLIEST = 140
"""280 ms after the beat before: earlier, the ventricles would not answer."""
LEAST_EARLY = 30
"""60 ms, below which a beat is not early."""
_QRS, _WIDE = 25, 45
"""Half of a QRS (50 ms) and what it is stretched to (90 ms)."""
_ST_T = 150
"""Length of what is turned over (300 ms), or less where the next beat is near."""
_BEFORE_QRS = 100
"""How far before the next R peak (200 ms) its own P wave begins, or less where the beats are near."""
_FADE = 10
_RAMP = np.arange(1, _FADE + 1) / (_FADE + 1)


def choose_beats(r_peaks: Peaks, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Which beats come early, and when: (index in `r_peaks`, sample), in order.

    No two are neighbours. There are fewer than `count` where the record has no room for them. A larger count adds to the
    choice of a smaller one.
    """
    inner = np.arange(1, len(r_peaks) - 1)
    coupling = generator.uniform(*COUPLING, len(inner))
    chosen: dict[int, int] = {}
    for index in generator.permutation(inner).tolist():
        before, beat = int(r_peaks[index - 1]), int(r_peaks[index])
        at = before + max(EARLIEST, round(coupling[index - 1] * (beat - before)))
        alone = index - 1 not in chosen and index + 1 not in chosen
        room = beat - at >= LEAST_EARLY and r_peaks[index + 1] - beat >= EARLIEST
        if alone and room and len(chosen) < count:
            chosen[index] = at
    return sorted(chosen.items())


def make_premature(signal: Signal, r_peaks: Peaks, count: int, generator: np.random.Generator) -> Signal:
    """The record with some of its beats made premature.

    Args:
        signal: int16 (12, 5000), microvolt; not changed.
        r_peaks: of the record.
        count: of premature beats; as many as have room.
        generator: chooses beats and times.

    Returns:
        The changed record; missing samples stay missing, and those moved with a beat are missing where they went.
    """
    missing = signal == MISSING
    leads, lost = filled(signal), missing.copy()
    for index, at in choose_beats(r_peaks, count, generator):
        beat, after = int(r_peaks[index]), int(r_peaks[index + 1])
        end = after - min(_BEFORE_QRS, int(0.4 * (after - beat)))
        st_t = min(_ST_T, int(0.7 * (end - beat - _QRS)))
        times = np.arange(at - _WIDE, end)
        # The QRS is stretched, the T wave moves as it is, and the rest up to the next P wave fills the pause.
        new = [at - _WIDE, at, at + _WIDE, at + _WIDE + st_t, end]
        old = [beat - _QRS, beat, beat + _QRS, beat + _QRS + st_t, end]
        source = np.interp(times, new, old)
        moved = _at(leads, source)
        _turn_over(moved[:, 2 * _WIDE : 2 * _WIDE + st_t + 1])
        moved[:, :_FADE] = _RAMP * moved[:, :_FADE] + (1 - _RAMP) * leads[:, times[:_FADE]]
        leads[:, times] = moved
        lost[:, times] |= missing[:, np.rint(source).astype(np.intp)]
    changed = with_samples(signal, leads)
    changed[lost] = MISSING
    return changed


def _at(leads: Floats, source: Floats) -> Floats:
    """The leads at fractional samples (n,), between their neighbours: (12, n)."""
    low = np.floor(source).astype(np.intp)
    share = source - low
    return (1 - share) * leads[:, low] + share * leads[:, low + 1]


def _turn_over(part: Floats) -> None:
    """Mirror a part of the leads (12, n) about the line between its ends, in place."""
    part[:] = 2 * np.linspace(part[:, 0], part[:, -1], part.shape[1], axis=1) - part
