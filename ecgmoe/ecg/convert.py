"""From any physical recording to the canonical record: lead selection, resampling, length, rounding to microvolt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from ecgmoe.ecg.reader_options import Unit
from ecgmoe.ecg.record import (
    DURATION_S,
    LEADS,
    MAX_UV,
    MISSING,
    N_SAMPLES,
    SAMPLING_RATE_HZ,
    UV_PER_MV,
    RecordFault,
    Signal,
)

SAMPLING_RATES_HZ = (50.0, 20_000.0)
"""Rates that a diagnostic ECG can have; a header outside of them is damaged."""

READ_S = DURATION_S + 0.5
"""What a reader needs of a longer record: the canonical span, and a margin for the resampling filter."""

MV_PER_UNIT: Mapping[Unit, float] = {"V": 1e3, "mV": 1.0, "uV": 1e-3}

_MAX_RATIO_TERM = 1000
"""Bounds the length of the resampling filter; ratios of the rates in use (100 to 1000 Hz, 257, 360) are exact."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def lead_positions(lead_names: Sequence[str]) -> list[int]:
    """Where each lead of `LEADS` is in `lead_names`, matched without regard to case.

    Raises:
        RecordFault: a lead is missing or there twice.
    """
    names = [name.strip().lower() for name in lead_names]
    for lead in LEADS:
        count = names.count(lead.lower())
        if count == 0:
            raise RecordFault(f"lead {lead} is missing: the record has {', '.join(lead_names) or 'none'}")
        if count > 1:
            raise RecordFault(f"lead {lead} is there {count} times")
    return [names.index(lead.lower()) for lead in LEADS]


def checked_sampling_rate(sampling_rate_hz: float) -> float:
    """The rate itself.

    Raises:
        RecordFault: it is not a rate that an ECG can have.
    """
    low, high = SAMPLING_RATES_HZ
    if not low <= sampling_rate_hz <= high:
        raise RecordFault(f"sampling rate {sampling_rate_hz:g} Hz is outside {low:g} to {high:g} Hz")
    return sampling_rate_hz


def to_canonical(
    signal_mv: npt.NDArray[np.floating],
    sampling_rate_hz: float,
    lead_names: Sequence[str],
    *,
    pad_short: bool = False,
) -> Signal:
    """Convert a recording to a canonical record: its first 10 s, 12 leads by name, 500 Hz, int16 microvolt.

    Args:
        signal_mv: (n, n_leads) in millivolt, NaN where a sample is missing.
        sampling_rate_hz: of `signal_mv`; another one than 500 is resampled with an anti-aliasing polyphase filter.
        lead_names: name of each column; further leads than the twelve are left out.
        pad_short: fill a record of less than 10 s with `MISSING` at its end, instead of refusing it.

    Returns:
        int16 (12, 5000), rounded to the nearest microvolt, `MISSING` where there is no sample.

    Raises:
        RecordFault: a lead is missing or there twice, the rate is implausible, the record is too short, or an amplitude
            is beyond +-32.767 mV.
    """
    if signal_mv.ndim != 2 or signal_mv.shape[1] != len(lead_names):
        raise RecordFault(f"the signal has shape {signal_mv.shape}, expected (samples, {len(lead_names)} leads)")
    rate = checked_sampling_rate(sampling_rate_hz)
    kept = signal_mv[: math.ceil(READ_S * rate)].take(lead_positions(lead_names), axis=1)
    leads = kept.astype(np.float64, copy=False).T
    if np.isinf(leads).any():
        raise RecordFault("the signal holds infinite values")
    if rate != SAMPLING_RATE_HZ:
        leads = _resampled(leads, rate)
    leads = leads[:, :N_SAMPLES]
    if leads.shape[1] < N_SAMPLES and not pad_short:
        raise RecordFault(f"the record lasts {leads.shape[1] / SAMPLING_RATE_HZ:g} s, {DURATION_S} s are needed")
    return _to_microvolt(leads)


def _to_microvolt(leads_mv: Floats) -> Signal:
    """Round (12, n) to int16 microvolt; what is NaN or lies behind the end is `MISSING`."""
    microvolt = np.rint(leads_mv * UV_PER_MV)
    missing = np.isnan(microvolt)
    microvolt[missing] = 0
    peaks = np.abs(microvolt).max(axis=1, initial=0)
    if peaks.max() > MAX_UV:
        worst = int(peaks.argmax())
        raise RecordFault(
            f"lead {LEADS[worst]} reaches {peaks[worst] / UV_PER_MV:.3f} mV, beyond +-{MAX_UV / UV_PER_MV} mV"
        )
    signal = np.full((len(LEADS), N_SAMPLES), MISSING, dtype=np.int16)
    signal[:, : microvolt.shape[1]] = np.where(missing, MISSING, microvolt)
    return signal


def _resampled(leads: Floats, rate: float) -> Floats:
    """(12, n) at `rate` to (12, m) at 500 Hz; an output sample between missing input samples is NaN."""
    if leads.shape[1] == 0:
        return leads
    ratio = Fraction(SAMPLING_RATE_HZ / rate).limit_denominator(_MAX_RATIO_TERM)
    missing = np.isnan(leads)
    # "line" keeps an offset or a drift of the baseline from ringing at both ends.
    resampled = resample_poly(_bridged(leads, missing), ratio.numerator, ratio.denominator, axis=1, padtype="line")
    if missing.any():
        position = np.arange(resampled.shape[1]) * ratio.denominator / ratio.numerator
        before = np.floor(position).astype(np.int64)
        after = np.minimum(np.ceil(position).astype(np.int64), leads.shape[1] - 1)
        resampled[missing[:, before] | missing[:, after]] = np.nan
    return resampled


def _bridged(leads: Floats, missing: Bools) -> Floats:
    """The leads with straight lines over the gaps, because a filter would spread NaN and ring at a jump to zero."""
    bridged = leads.copy()
    times = np.arange(leads.shape[1])
    for lead in np.flatnonzero(missing.any(axis=1)):
        gap = missing[lead]
        bridged[lead, gap] = 0.0 if gap.all() else np.interp(times[gap], times[~gap], leads[lead, ~gap])
    return bridged
