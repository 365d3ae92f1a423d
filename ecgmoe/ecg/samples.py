"""From a canonical record to samples that can be computed with, and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ecgmoe.ecg.record import MAX_UV, MISSING, Signal

Floats = npt.NDArray[np.float64]


def filled(signal: Signal) -> Floats:
    """The record in microvolt, a lead's missing samples at the median of its others; 0 where it has none."""
    missing = signal == MISSING
    samples = signal.astype(np.float64)
    for lead in np.flatnonzero(missing.any(axis=1)):
        there = ~missing[lead]
        samples[lead, ~there] = np.median(samples[lead, there]) if there.any() else 0.0
    return samples


def with_samples(signal: Signal, samples: Floats) -> Signal:
    """Other samples (12, 5000) as a canonical record: rounded, cut at the ends of int16, missing where `signal` is."""
    rounded = np.clip(np.rint(samples), -MAX_UV, MAX_UV).astype(np.int16)
    return np.where(signal == MISSING, np.int16(MISSING), rounded)
