"""Signal quality of one canonical record, measured lead by lead.

What follows from it is decided in `ecg/quality_policy.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecgmoe.ecg.record import MISSING, SAMPLING_RATE_HZ, UV_PER_MV, Signal

LEAD_OFF_S = 1.0
"""A lead at rest for so long lost its electrode: between two beats a recorded lead always moves by a few microvolt."""
CLIPPED_SAMPLES = 8
"""Successive samples (16 ms) at a lead's extreme: an amplifier at its limit. A true peak is pointed."""
CLIPPED_FROM_UV = 500
"""Distance from the lead's median below which a plateau is taken for a coarse resolution, not for a limit."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LeadQuality:
    """What the waveform alone says; arrays are (12,), in the order of `LEADS`.

    Attributes:
        missing_share: share of missing samples, 0..1.
        flat: constant, or wholly missing.
        zero: constant at 0 uV.
        clipped: rests at its highest or lowest value for 16 ms or more, over 0.5 mV from its median.
        lead_off: not flat, but constant for 1 s or more.
        amplitude_mv: largest absolute sample; 0 where every sample is missing.
        noise_uv: standard deviation of the noise, from the median magnitude of the second difference, which a QRS does
            not reach; 0 where every sample is missing.
        einthoven_uv: median of |I + III - II| of the record; None where no sample has all three leads. Above a few
            microvolt the limb leads were not recorded together, are swapped or are scaled apart.
    """

    missing_share: Floats
    flat: Bools
    zero: Bools
    clipped: Bools
    lead_off: Bools
    amplitude_mv: Floats
    noise_uv: Floats
    einthoven_uv: float | None


def measure(signal: Signal) -> LeadQuality:
    """Measure a canonical record, int16 (12, n) in microvolt; n is less than 5000 where padding was cut off."""
    missing = signal == MISSING
    share = missing.mean(axis=1)
    # MISSING is the lowest int16, so it never raises a maximum; for the minimum it has to be taken out.
    highest = signal.max(axis=1).astype(np.int32)
    lowest = (np.where(missing, np.int16(32767), signal) if share.any() else signal).min(axis=1).astype(np.int32)
    present = highest > MISSING
    flat = highest <= lowest
    largest = np.where(present, np.maximum(highest, -lowest), 0)
    return LeadQuality(
        missing_share=share,
        flat=flat,
        zero=flat & present & (highest == 0),
        clipped=_clipped(signal, highest, lowest) & ~flat,
        lead_off=_rests(signal) & ~flat,
        amplitude_mv=largest / UV_PER_MV,
        noise_uv=_noise_uv(signal, missing),
        einthoven_uv=_einthoven_uv(signal, missing),
    )


def padded_samples(signal: Signal) -> int:
    """Samples at the end that are missing in every lead: what a reader filled a short record with."""
    present = np.flatnonzero((signal != MISSING).any(axis=0))
    return signal.shape[1] - (int(present[-1]) + 1 if len(present) else 0)


def _longest_run(mask: Bools) -> int:
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _clipped(signal: Signal, highest: npt.NDArray[np.int32], lowest: npt.NDArray[np.int32]) -> Bools:
    middle = np.median(signal[:, ::5], axis=1)
    clipped = np.zeros(len(signal), dtype=bool)
    for extreme in (highest, lowest):
        at_extreme = signal == extreme[:, None]
        likely = (np.abs(extreme - middle) > CLIPPED_FROM_UV) & (at_extreme.sum(axis=1) >= CLIPPED_SAMPLES)
        for lead in np.flatnonzero(likely):
            clipped[lead] |= _longest_run(at_extreme[lead]) >= CLIPPED_SAMPLES
    return clipped


def _rests(signal: Signal) -> Bools:
    """Leads whose present samples stay the same for `LEAD_OFF_S`."""
    samples = round(LEAD_OFF_S * SAMPLING_RATE_HZ)
    still = (signal[:, 1:] == signal[:, :-1]) & (signal[:, 1:] != MISSING)
    # A run of that length holds at least one whole block of half of it, which is quicker to look for.
    half = samples // 2
    blocks = still[:, : still.shape[1] // half * half].reshape(len(signal), -1, half)
    resting = np.zeros(len(signal), dtype=bool)
    for lead in np.flatnonzero(blocks.all(axis=2).any(axis=1)):
        resting[lead] = _longest_run(still[lead]) >= samples - 1
    return resting


def _noise_uv(signal: Signal, missing: Bools) -> Floats:
    """The second difference of white noise has sqrt(6) times its standard deviation, 1.4826 medians of its magnitude."""
    values = signal.astype(np.float32)
    curvature = np.abs(values[:, 2:] - 2 * values[:, 1:-1] + values[:, :-2])
    if not missing.any():
        return 1.4826 / np.sqrt(6) * np.median(curvature, axis=1).astype(np.float64)
    known = ~(missing[:, 2:] | missing[:, 1:-1] | missing[:, :-2])
    medians = [np.median(line[use]) if use.any() else 0.0 for line, use in zip(curvature, known, strict=True)]
    return 1.4826 / np.sqrt(6) * np.array(medians, dtype=np.float64)


def _einthoven_uv(signal: Signal, missing: Bools) -> float | None:
    """Median deviation from Einthoven's law, lead II = I + III, over the samples that have all three."""
    limb = signal[:3].astype(np.int32)
    deviation = np.abs(limb[0] + limb[2] - limb[1])
    known = ~missing[:3].any(axis=0)
    return float(np.median(deviation[known])) if known.any() else None
