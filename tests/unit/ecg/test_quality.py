"""Quality of a record and the policy that excludes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ecgmoe.ecg.quality import Quality, QualityPolicy, assess
from ecgmoe.ecg.record import MISSING, Signal


def record() -> Signal:
    """A record that obeys Einthoven's law, at most 1 mV."""
    wave = (1000 * np.sin(np.arange(5000) / 20)).astype(np.int16)
    signal = np.tile(wave, (12, 1)) // 2
    signal[1] = signal[0] + signal[2]
    return signal


def good(**changes: float) -> Quality:
    values: dict[str, float] = {
        "missing_share": 0.0,
        "flat_leads": 0,
        "amplitude_mv": 1.0,
        "einthoven_uv": 0.0,
        **changes,
    }
    return Quality(**values)  # type: ignore[arg-type]


def test_a_clean_record() -> None:
    quality = assess(record())
    assert quality.missing_share == 0
    assert quality.flat_leads == 0
    assert quality.amplitude_mv == pytest.approx(1.0, abs=0.002)
    assert quality.einthoven_uv == 0
    assert QualityPolicy().reason_to_exclude(quality) is None


def test_missing_samples_count_and_are_no_amplitude() -> None:
    signal = record()
    signal[3, :600] = MISSING
    quality = assess(signal)
    assert quality.missing_share == pytest.approx(0.01)
    assert quality.flat_leads == 0
    assert quality.amplitude_mv < 1.01


def test_flat_leads_are_constant_or_wholly_missing_ones() -> None:
    signal = record()
    signal[4] = 0
    signal[7] = -120
    signal[11] = MISSING
    signal[10] = MISSING
    signal[10, 5] = 3
    assert assess(signal).flat_leads == 1 << 4 | 1 << 7 | 1 << 10 | 1 << 11


def test_everything_missing() -> None:
    quality = assess(np.full((12, 5000), MISSING, dtype=np.int16))
    assert quality == Quality(missing_share=1.0, flat_leads=0xFFF, amplitude_mv=0.0, einthoven_uv=None)


def test_negative_extremes_count() -> None:
    signal = record()
    signal[6, 17] = -32767
    assert assess(signal).amplitude_mv == pytest.approx(32.767)


def test_swapped_limb_leads_break_einthovens_law() -> None:
    signal = record()
    signal[1] = -signal[1]
    assert (assess(signal).einthoven_uv or 0) > 500
    signal[0] = MISSING
    assert assess(signal).einthoven_uv is None


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        (good(missing_share=0.02), r"2\.00% of the samples are missing \(limit 0\.00%\)"),
        (good(flat_leads=0b100000001011), r"4 flat leads: I, II, aVR, V6 \(limit 3\)"),
        (good(amplitude_mv=11.4), r"amplitude 11\.400 mV \(limit 10 mV\)"),
    ],
)
def test_the_reason_names_value_and_limit(quality: Quality, reason: str) -> None:
    assert re.fullmatch(reason, QualityPolicy().reason_to_exclude(quality) or "")


def test_the_limits_themselves_are_allowed() -> None:
    policy = QualityPolicy(max_missing_share=0.5, max_flat_leads=1, max_amplitude_mv=2)
    assert policy.reason_to_exclude(good(missing_share=0.5, flat_leads=4, amplitude_mv=2.0)) is None


@pytest.mark.parametrize(
    "limits",
    [{"max_missing_share": 1.1}, {"max_missing_share": -0.1}, {"max_flat_leads": 13}, {"max_amplitude_mv": 0.0}],
)
def test_impossible_limits_are_refused(limits: dict[str, float]) -> None:
    name, value = next(iter(limits.items()))
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        QualityPolicy(**limits)  # type: ignore[arg-type]
