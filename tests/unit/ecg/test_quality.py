"""What is measured of a record's quality, and what the policy makes of it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from ecgmoe.ecg.quality import measure, padded_samples
from ecgmoe.ecg.quality_policy import QualityFault, QualityPolicy, apply_policy
from ecgmoe.ecg.record import LEADS, MISSING, Signal


def record() -> Signal:
    """A record that obeys Einthoven's law, at most 1 mV, with 10 uV of noise."""
    wave = 1000 * np.sin(np.arange(5000) / 20)
    noise = np.random.default_rng(0).normal(0, 10, (12, 5000))
    signal = np.rint(np.tile(wave, (12, 1)) / 2 + noise).astype(np.int16)
    signal[1] = signal[0] + signal[2]
    return signal


def leads(bits: np.ndarray) -> list[str]:
    return [lead for lead, bit in zip(LEADS, bits, strict=True) if bit]


def test_a_clean_record() -> None:
    quality = measure(record())
    assert not quality.missing_share.any()
    assert not (quality.flat | quality.zero | quality.clipped | quality.lead_off).any()
    assert quality.amplitude_mv.max() == pytest.approx(1.0, abs=0.06)
    assert quality.einthoven_uv == 0
    assert quality.noise_uv[3] == pytest.approx(10, rel=0.1)
    unchanged, stored = apply_policy(record(), QualityPolicy())
    assert np.array_equal(unchanged, record())
    assert (stored.masked_leads, stored.flat_leads, stored.noisy_leads) == (0, 0, 0)


def test_missing_samples_count_and_are_no_amplitude() -> None:
    signal = record()
    signal[3, :600] = MISSING
    quality = measure(signal)
    assert quality.missing_share[3] == pytest.approx(0.12)
    assert not quality.flat.any()
    assert quality.amplitude_mv.max() < 1.1
    assert quality.noise_uv[3] == pytest.approx(10, rel=0.1)


def test_flat_leads_are_constant_or_wholly_missing_ones() -> None:
    signal = record()
    signal[4] = 0
    signal[7] = -120
    signal[11] = MISSING
    signal[10] = MISSING
    signal[10, 5] = 3
    quality = measure(signal)
    assert leads(quality.flat) == ["aVL", "V2", "V5", "V6"]
    assert leads(quality.zero) == ["aVL"]
    assert not quality.lead_off.any()


def test_everything_missing() -> None:
    quality = measure(np.full((12, 5000), MISSING, dtype=np.int16))
    assert quality.missing_share.tolist() == [1.0] * 12
    assert quality.flat.all()
    assert not quality.amplitude_mv.any()
    assert not quality.noise_uv.any()
    assert quality.einthoven_uv is None


def test_negative_extremes_count() -> None:
    signal = record()
    signal[6, 17] = -32767
    assert measure(signal).amplitude_mv[6] == pytest.approx(32.767)


def test_swapped_limb_leads_break_einthovens_law() -> None:
    signal = record()
    signal[1] = -signal[1]
    assert (measure(signal).einthoven_uv or 0) > 500
    signal[0] = MISSING
    assert measure(signal).einthoven_uv is None


@pytest.mark.parametrize(("limit", "run"), [(700, 30), (-800, 8)])
def test_an_amplifier_at_its_limit_is_clipped(limit: int, run: int) -> None:
    signal = record()
    signal[8] = np.clip(signal[8], -600, 600)
    signal[8, 1000 : 1000 + run] = limit
    assert leads(measure(signal).clipped) == ["V3"]
    signal[8, 1000 + run - 1] = 0
    signal[8, 1000 : 1000 + run - 1 : 6] = 0
    assert not measure(signal).clipped[8]


def test_a_coarse_resolution_is_not_clipping() -> None:
    signal = record()
    signal[8] = signal[8] // 400 * 100
    assert not measure(signal).clipped[8]


@pytest.mark.parametrize("start", [0, 333, 4500])
def test_a_lost_electrode_leaves_a_lead_at_rest(start: int) -> None:
    signal = record()
    signal[9, start : start + 500] = 42
    assert leads(measure(signal).lead_off) == ["V4"]
    signal[9, start + 250] = 43
    assert not measure(signal).lead_off.any()


def test_a_gap_is_not_a_lost_electrode() -> None:
    signal = record()
    signal[9, 1000:2000] = MISSING
    assert not measure(signal).lead_off.any()


def test_padding_is_what_is_missing_in_every_lead_at_the_end() -> None:
    signal = record()
    assert padded_samples(signal) == 0
    signal[:, 4000:] = MISSING
    signal[3, 3000:] = MISSING
    assert padded_samples(signal) == 1000
    assert padded_samples(np.full((12, 5000), MISSING, dtype=np.int16)) == 5000


def test_padding_is_no_fault_and_is_stored() -> None:
    signal = record()
    signal[:, 4000:] = MISSING
    with pytest.raises(QualityFault, match=r"20\.00% of the samples of a lead are missing"):
        apply_policy(signal, QualityPolicy())
    _, stored = apply_policy(signal, QualityPolicy(), padded=1000)
    assert (stored.padded_samples, stored.missing_share) == (1000, 0)


def spoilt(fault: str) -> Signal:
    signal = record()
    if fault == "missing":
        signal[6, 100:200] = MISSING
    elif fault == "flat":
        signal[6] = 7
    elif fault == "clipped":
        signal[6, 100:120] = 1400
    elif fault == "lead_off":
        signal[6, 100:700] = 3
    elif fault == "amplitude":
        signal[6, 100] = 11_400
    elif fault == "noise":
        signal[6] += np.random.default_rng(1).normal(0, 100, 5000).astype(np.int16)
    return signal


REASONS = {
    "missing": r"2\.00% of the samples of a lead are missing \(limit 0\.00%\): V1",
    "flat": "flat leads: V1",
    "clipped": "clipped leads: V1",
    "lead_off": "leads without electrode for a second or longer: V1",
    "amplitude": r"amplitude 11\.400 mV \(limit 10 mV\): V1",
    "noise": r"noise \d+ uV \(limit 50 uV\): V1",
}


@pytest.mark.parametrize("fault", REASONS)
def test_every_fault_can_be_kept_masked_or_excluded(fault: str) -> None:
    signal = spoilt(fault)
    kept, stored = apply_policy(signal, QualityPolicy(**{fault: "keep"}))
    assert np.array_equal(kept, signal)
    assert stored.masked_leads == 0
    masked, stored = apply_policy(signal, QualityPolicy(**{fault: "mask"}))
    assert (masked[6] == MISSING).all()
    assert np.array_equal(np.delete(masked, 6, 0), np.delete(signal, 6, 0))
    assert stored.masked_leads == 1 << 6
    assert np.array_equal(signal, spoilt(fault)), "the record given in was changed"
    with pytest.raises(QualityFault) as excluded:
        apply_policy(signal, QualityPolicy(**{fault: "exclude"}))
    assert re.fullmatch(REASONS[fault], str(excluded.value))


def test_a_record_in_a_wrong_unit_is_too_small_and_the_reason_says_so() -> None:
    small = (record() / 20).astype(np.int16)  # as millivolt read as microvolt would be, but for the factor
    with pytest.raises(QualityFault) as excluded:
        apply_policy(small, QualityPolicy())
    assert re.fullmatch(
        r"amplitude 0\.0\d+ mV \(at least 0\.1 mV\): the file's unit or gain is wrong", str(excluded.value)
    )
    kept, stored = apply_policy(small, QualityPolicy(amplitude="keep"))
    assert np.array_equal(kept, small)
    assert stored.masked_leads == 0
    apply_policy(small, QualityPolicy(min_amplitude_mv=0))
    small[3, 7] = 100
    assert apply_policy(small, QualityPolicy())[1].amplitude_mv == pytest.approx(0.1), "one lead is large enough"


def test_a_flat_record_is_not_called_too_small() -> None:
    with pytest.raises(QualityFault, match="12 flat or masked leads"):
        apply_policy(np.full((12, 5000), 3, dtype=np.int16), QualityPolicy())


def test_too_many_unusable_leads_exclude_the_record() -> None:
    signal = record()
    signal[[0, 3, 7]] = 0
    apply_policy(signal, QualityPolicy())
    signal[11, 5] = MISSING
    with pytest.raises(QualityFault, match=r"4 flat or masked leads: I, aVR, V2, V6 \(limit 3\)"):
        apply_policy(signal, QualityPolicy(missing="mask"))


def test_einthoven_can_exclude() -> None:
    signal = record()
    signal[1] += 60
    _, stored = apply_policy(signal, QualityPolicy())
    assert stored.einthoven_uv == 60
    with pytest.raises(QualityFault, match=r"leads I \+ III - II differ by 60 uV \(limit 50 uV\)"):
        apply_policy(signal, QualityPolicy(einthoven="exclude"))


def test_the_limits_themselves_are_allowed() -> None:
    signal = record()
    signal[6, :2500] = MISSING
    signal[5, 7] = 2000
    policy = QualityPolicy(max_missing_share=0.5, max_amplitude_mv=2)
    assert apply_policy(signal, policy)[1].amplitude_mv == 2


@pytest.mark.parametrize(
    "limits",
    [
        {"max_missing_share": 1.1},
        {"max_missing_share": -0.1},
        {"max_unusable_leads": 13},
        {"max_amplitude_mv": 0.0},
        {"min_amplitude_mv": -0.1},
        {"min_amplitude_mv": 10.0},
        {"min_amplitude_mv": float("nan")},
        {"max_noise_uv": float("nan")},
        {"max_einthoven_uv": -1.0},
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, Any]) -> None:
    name, value = next(iter(limits.items()))
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        QualityPolicy(**limits)
