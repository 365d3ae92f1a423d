"""What becomes of a record of doubtful quality: kept, stored without the bad leads, or excluded with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ecgmoe.ecg.quality import Bools, LeadQuality, measure
from ecgmoe.ecg.record import LEADS, MAX_UV, MISSING, N_LEADS, UV_PER_MV, RecordFault, Signal


class QualityFault(RecordFault):
    """The record was read, and the policy excludes it."""


Action = Literal["keep", "mask", "exclude"]
"""keep the lead as it is, mask it (store it as missing), or exclude its record."""


@dataclass(frozen=True, kw_only=True)
class QualityPolicy:
    """What follows from each fault; the measures themselves are stored beside every record.

    Attributes:
        missing: leads with more missing samples than max_missing_share.
        flat: constant leads, all-zero ones among them.
        clipped: leads that rest at their extreme.
        lead_off: leads that lost their electrode for a second or longer.
        amplitude: leads beyond max_amplitude_mv, and all leads of a record that stays below min_amplitude_mv.
        noise: leads noisier than max_noise_uv.
        einthoven: records whose limb leads deviate from lead II = I + III by more than max_einthoven_uv.
        few_beats: records with fewer than three R peaks.
        max_missing_share: of a lead's samples, 0..1; padding does not count.
        max_amplitude_mv: largest absolute sample of a lead.
        min_amplitude_mv: largest absolute sample of a whole record; below, its unit or gain is wrong. 0 sets no limit.
        max_noise_uv: standard deviation of a lead's noise.
        max_einthoven_uv: median deviation.
        max_unusable_leads: a record with more flat and masked leads than that is excluded.
    """

    missing: Action = "exclude"
    flat: Action = "keep"
    clipped: Action = "keep"
    lead_off: Action = "keep"
    amplitude: Action = "exclude"
    noise: Action = "keep"
    einthoven: Literal["keep", "exclude"] = "keep"
    few_beats: Literal["keep", "exclude"] = "keep"
    max_missing_share: float = 0.0
    max_amplitude_mv: float = 10.0
    min_amplitude_mv: float = 0.1
    max_noise_uv: float = 50.0
    max_einthoven_uv: float = 50.0
    max_unusable_leads: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing_share <= 1:
            raise ValueError(f"max_missing_share must be in 0..1, got {self.max_missing_share}")
        if not 0 <= self.max_unusable_leads <= N_LEADS:
            raise ValueError(f"max_unusable_leads must be in 0..{N_LEADS}, got {self.max_unusable_leads}")
        if not 0 < self.max_amplitude_mv <= MAX_UV / UV_PER_MV:
            raise ValueError(
                f"max_amplitude_mv must be above 0 and at most {MAX_UV / UV_PER_MV}, got {self.max_amplitude_mv}"
            )
        if not 0 <= self.min_amplitude_mv < self.max_amplitude_mv:
            raise ValueError(
                f"min_amplitude_mv must be at least 0 and below max_amplitude_mv ({self.max_amplitude_mv}), got "
                f"{self.min_amplitude_mv}"
            )
        for name in ("max_noise_uv", "max_einthoven_uv"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What is stored of a record's quality. Bit i of a lead mask stands for lead i of `LEADS`.

    Attributes:
        missing_share: of all samples, before masking and without padding.
        padded_samples: at the end of a record that was too short.
        flat_leads, zero_leads, clipped_leads, lead_off_leads: as `LeadQuality` defines them.
        noisy_leads: above the policy's max_noise_uv.
        masked_leads: stored as missing.
        amplitude_mv: largest absolute sample before masking.
        noise_uv: median over the leads that are not flat.
        einthoven_uv: median of |I + III - II|.
    """

    missing_share: float
    padded_samples: int
    flat_leads: int
    zero_leads: int
    clipped_leads: int
    lead_off_leads: int
    noisy_leads: int
    masked_leads: int
    amplitude_mv: float
    noise_uv: float
    einthoven_uv: float | None


def apply_policy(signal: Signal, policy: QualityPolicy, padded: int = 0) -> tuple[Signal, Quality]:
    """Measure a canonical record and do what the policy says.

    Args:
        signal: int16 (12, 5000), microvolt; not changed.
        policy: what follows from which fault.
        padded: samples at the end that are padding: they are no fault.

    Returns:
        The record, its masked leads wholly `MISSING`, and what is stored of its quality.

    Raises:
        QualityFault: the record is excluded; the message names leads, value and limit.
    """
    measured = measure(signal[:, : signal.shape[1] - padded])
    masked = np.zeros(N_LEADS, dtype=bool)
    for name, bad, text in _faults(measured, policy):
        action: Action = getattr(policy, name)
        if action == "exclude" and bad.any():
            raise QualityFault(text)
        if action == "mask":
            masked |= bad
    deviation = measured.einthoven_uv
    if policy.einthoven == "exclude" and deviation is not None and deviation > policy.max_einthoven_uv:
        raise QualityFault(f"leads I + III - II differ by {deviation:g} uV (limit {policy.max_einthoven_uv:g} uV)")
    unusable = masked | measured.flat
    if unusable.sum() > policy.max_unusable_leads:
        raise QualityFault(
            f"{unusable.sum()} flat or masked leads: {_named(unusable)} (limit {policy.max_unusable_leads})"
        )
    if masked.any():
        signal = signal.copy()
        signal[masked] = MISSING
    return signal, _summary(measured, masked, measured.noise_uv > policy.max_noise_uv, padded)


def _faults(measured: LeadQuality, policy: QualityPolicy) -> list[tuple[str, Bools, str]]:
    """Name of each criterion, the leads that fail it, and the reason to exclude their record."""
    missing = measured.missing_share > policy.max_missing_share
    beyond = measured.amplitude_mv > policy.max_amplitude_mv
    # Flat leads are a fault of their own; what moves by microvolts alone is an ECG in a wrong unit.
    small = ~measured.flat & (measured.amplitude_mv.max() < policy.min_amplitude_mv)
    noisy = measured.noise_uv > policy.max_noise_uv
    share, amplitude = measured.missing_share.max(), measured.amplitude_mv.max()
    return [
        (
            "missing",
            missing,
            f"{share:.2%} of the samples of a lead are missing (limit {policy.max_missing_share:.2%}): {_named(missing)}",
        ),
        ("flat", measured.flat, f"flat leads: {_named(measured.flat)}"),
        ("clipped", measured.clipped, f"clipped leads: {_named(measured.clipped)}"),
        ("lead_off", measured.lead_off, f"leads without electrode for a second or longer: {_named(measured.lead_off)}"),
        ("amplitude", beyond, f"amplitude {amplitude:.3f} mV (limit {policy.max_amplitude_mv:g} mV): {_named(beyond)}"),
        (
            "amplitude",
            small,
            f"amplitude {amplitude:.4f} mV (at least {policy.min_amplitude_mv:g} mV): the file's unit or gain is wrong",
        ),
        (
            "noise",
            noisy,
            f"noise {measured.noise_uv.max():.0f} uV (limit {policy.max_noise_uv:g} uV): {_named(noisy)}",
        ),
    ]


def _summary(measured: LeadQuality, masked: Bools, noisy: Bools, padded: int) -> Quality:
    moving = ~measured.flat
    return Quality(
        missing_share=float(measured.missing_share.mean()),
        padded_samples=padded,
        flat_leads=lead_mask(measured.flat),
        zero_leads=lead_mask(measured.zero),
        clipped_leads=lead_mask(measured.clipped),
        lead_off_leads=lead_mask(measured.lead_off),
        noisy_leads=lead_mask(noisy),
        masked_leads=lead_mask(masked),
        amplitude_mv=float(measured.amplitude_mv.max()),
        noise_uv=float(np.median(measured.noise_uv[moving])) if moving.any() else 0.0,
        einthoven_uv=measured.einthoven_uv,
    )


def lead_mask(leads: Bools) -> int:
    """(12,) booleans as one integer, bit i for lead i."""
    return int(leads @ (1 << np.arange(N_LEADS)))


def leads_of(mask: int) -> list[str]:
    """Names of the leads whose bits `lead_mask` has set."""
    return [lead for number, lead in enumerate(LEADS) if mask >> number & 1]


def _named(leads: Bools) -> str:
    return ", ".join(lead for lead, bad in zip(LEADS, leads, strict=True) if bad)
