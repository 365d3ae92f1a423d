"""Signal quality of one canonical record, and which records are left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgmoe.ecg.record import LEADS, MAX_UV, MISSING, N_LEADS, UV_PER_MV, Signal


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the waveform alone says about its quality.

    Attributes:
        missing_share: share of missing samples over all leads, 0..1.
        flat_leads: bit i is set where lead i of `LEADS` is constant or wholly missing.
        amplitude_mv: largest absolute sample; 0 where every sample is missing.
        einthoven_uv: median of |I + III - II|; None where no sample has all three leads. Above a few microvolt the limb
            leads were not recorded together, are swapped or are scaled apart.
    """

    missing_share: float
    flat_leads: int
    amplitude_mv: float
    einthoven_uv: float | None


@dataclass(frozen=True, kw_only=True)
class QualityPolicy:
    """Limits beyond which a record is excluded.

    Attributes:
        max_missing_share: of all samples, 0..1.
        max_flat_leads: number of constant or missing leads.
        max_amplitude_mv: largest absolute sample.
    """

    max_missing_share: float = 0.0
    max_flat_leads: int = 3
    max_amplitude_mv: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing_share <= 1:
            raise ValueError(f"max_missing_share must be in 0..1, got {self.max_missing_share}")
        if not 0 <= self.max_flat_leads <= N_LEADS:
            raise ValueError(f"max_flat_leads must be in 0..{N_LEADS}, got {self.max_flat_leads}")
        if not 0 < self.max_amplitude_mv <= MAX_UV / UV_PER_MV:
            raise ValueError(
                f"max_amplitude_mv must be above 0 and at most {MAX_UV / UV_PER_MV}, got {self.max_amplitude_mv}"
            )

    def reason_to_exclude(self, quality: Quality) -> str | None:
        """Why a record of this quality is left out; None where it stays."""
        if quality.missing_share > self.max_missing_share:
            return f"{quality.missing_share:.2%} of the samples are missing (limit {self.max_missing_share:.2%})"
        flat = [lead for bit, lead in enumerate(LEADS) if quality.flat_leads >> bit & 1]
        if len(flat) > self.max_flat_leads:
            return f"{len(flat)} flat leads: {', '.join(flat)} (limit {self.max_flat_leads})"
        if quality.amplitude_mv > self.max_amplitude_mv:
            return f"amplitude {quality.amplitude_mv:.3f} mV (limit {self.max_amplitude_mv:g} mV)"
        return None


def assess(signal: Signal) -> Quality:
    """Measure the quality of a canonical record, int16 (12, 5000) in microvolt."""
    missing = signal == MISSING
    share = float(missing.mean())
    # MISSING is the lowest int16, so it never raises a maximum; for the minimum it has to be taken out.
    highest = signal.max(axis=1).astype(np.int32)
    lowest = (np.where(missing, MAX_UV, signal) if share else signal).min(axis=1).astype(np.int32)
    present = highest > MISSING
    flat = highest <= lowest
    largest = np.maximum(highest, -lowest)[present].max(initial=0)
    return Quality(
        missing_share=share,
        flat_leads=int(flat @ (1 << np.arange(N_LEADS))),
        amplitude_mv=float(largest) / UV_PER_MV,
        einthoven_uv=_einthoven_uv(signal, missing),
    )


def _einthoven_uv(signal: Signal, missing: np.ndarray) -> float | None:
    """Median deviation from Einthoven's law, lead II = I + III, over the samples that have all three."""
    limb = signal[:3].astype(np.int32)
    deviation = np.abs(limb[0] + limb[2] - limb[1])
    known = ~missing[:3].any(axis=0)
    return float(np.median(deviation[known])) if known.any() else None
