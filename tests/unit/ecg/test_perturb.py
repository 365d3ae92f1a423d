"""Perturbations: the size that was asked for, the same draw everywhere, and what each leaves as it was."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ecgmoe.ecg.beats import detect_r_peaks
from ecgmoe.ecg.electrode_noise import ELECTRODES, baseline_wander, ecg_power, lead_matrix, mains, muscle
from ecgmoe.ecg.perturb import (
    CLEAN,
    PERTURBATIONS,
    Condition,
    conditions,
    missing_leads,
    perturb,
)
from ecgmoe.ecg.premature import COUPLING, EARLIEST, choose_beats
from ecgmoe.ecg.quality import measure
from ecgmoe.ecg.record import LEADS, MISSING, Signal

BEATS = np.arange(200, 4900, 400)
SNR_DB = (24.0, 12.0, 6.0, 0.0)
NOISES = ("baseline_wander", "muscle_noise", "mains")
ALL = conditions(list(PERTURBATIONS))[1:]
ROUNDING_UV = 2
"""Three leads rounded by half a microvolt each, in a sum of whole numbers, before and after."""
TURNED_UV = 4
"""The same, where twice a line between two such samples has one of them subtracted: 2 + 1 + 1.5."""


def record(beats: np.ndarray = BEATS) -> Signal:
    """P, QRS and T at nine electrodes, seen by twelve leads as a recorder sees them, on a slow drift."""
    time = np.arange(5000)
    waves = ((-80, 12, 100), (0, 8, 1000), (130, 35, 250))
    sizes = np.random.default_rng(7).uniform(0.2, 1.0, (len(ELECTRODES), len(waves)))
    shapes = [
        sum((height * np.exp(-(((time - beat - at) / width) ** 2)) for beat in beats), start=np.zeros(5000))
        for at, width, height in waves
    ]
    electrodes = sizes @ np.array(shapes) + 300 * np.sin(time / 900)
    electrodes[0] *= -1
    return np.rint(lead_matrix() @ electrodes).astype(np.int16)


def spoilt(condition: Condition, signal: Signal | None = None, seed: int = 0, study_id: int = 5) -> Signal:
    signal = record() if signal is None else signal
    return perturb(signal, detect_r_peaks(signal), condition, seed=seed, study_id=study_id)


def einthoven(signal: Signal) -> np.ndarray:
    leads = signal.astype(np.int64)
    return leads[0] + leads[2] - leads[1]


def goldberger(signal: Signal) -> np.ndarray:
    return signal[3:6].astype(np.int64).sum(0)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("snr_db", SNR_DB)
def test_the_ratio_is_the_one_asked_for(name: str, snr_db: float) -> None:
    signal = record()
    noise = spoilt(Condition(name, snr_db)).astype(np.float64) - signal
    # At 24 dB the noise has 94 square microvolt; rounding adds 1/12, which is 0.004 dB, and more under mains, where ten
    # samples repeat and their rounding with them.
    assert 10 * np.log10(ecg_power(signal) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.02)


def test_the_ratio_counts_the_samples_that_are_there() -> None:
    signal = record()
    signal[8] = MISSING
    signal[2, 1000:4000] = MISSING
    there = signal != MISSING
    noisy = spoilt(Condition("muscle_noise", 6.0), signal)
    noise = noisy[there].astype(np.float64) - signal[there]
    assert 10 * np.log10(ecg_power(signal) / np.mean(noise**2)) == pytest.approx(6, abs=0.01)


def test_the_power_of_a_record_is_that_of_its_beats() -> None:
    signal = record()
    still = np.rint(signal - np.median(signal, axis=1, keepdims=True)).astype(np.int16)
    drift = np.rint(1500 * np.sin(2 * np.pi * 0.15 * np.arange(5000) / 500)).astype(np.int16)
    # A drift of 1.5 mV, whose own power is forty times that of the beats, is no signal.
    assert np.mean(drift.astype(float) ** 2) > 40 * ecg_power(still)
    assert ecg_power(still + drift) == pytest.approx(ecg_power(still), rel=0.1)
    assert ecg_power(2 * still) == pytest.approx(4 * ecg_power(still))


@pytest.mark.parametrize(("noise", "low_hz", "high_hz"), [(baseline_wander, 0.0, 0.61), (muscle, 19.0, 151.0)])
def test_noise_stays_in_its_band(noise: object, low_hz: float, high_hz: float) -> None:
    drawn = noise(np.random.default_rng(0))  # type: ignore[operator]
    assert drawn.shape == (9, 5000)
    power = np.abs(np.fft.rfft(drawn * np.hanning(5000))) ** 2
    frequency = np.fft.rfftfreq(5000, 1 / 500)
    inside = (frequency >= low_hz) & (frequency <= high_hz)
    assert power[:, inside].sum() > 0.99 * power.sum()
    correlation = np.corrcoef(noise(np.random.default_rng(1)))  # type: ignore[operator]
    # No electrode repeats another.
    assert np.abs(correlation[~np.eye(9, dtype=bool)]).max() < 0.98


def test_mains_is_50_hz_with_two_harmonics_of_one_source() -> None:
    drawn = mains(np.random.default_rng(0))
    height = np.abs(np.fft.rfft(drawn[0]))
    lines = [500, 1000, 1500]  # tenths of a Hz
    assert sorted(np.argsort(height)[-3:].tolist()) == lines
    assert height[lines] / height[500] == pytest.approx([1, 0.1, 0.2])
    assert np.abs(np.corrcoef(drawn)) == pytest.approx(np.ones((9, 9)))


def test_electrodes_make_the_leads_that_they_make() -> None:
    matrix = dict(zip(LEADS, lead_matrix(), strict=True))
    assert matrix["I"] + matrix["III"] == pytest.approx(matrix["II"])
    assert matrix["aVR"] + matrix["aVL"] + matrix["aVF"] == pytest.approx(np.zeros(9))
    assert matrix["aVF"] == pytest.approx((matrix["II"] + matrix["III"]) / 2)
    # A voltage that all electrodes share is seen by no lead.
    assert lead_matrix().sum(1) == pytest.approx(np.zeros(12))


@pytest.mark.parametrize(
    "condition", [*(Condition(name, 0.0) for name in NOISES), Condition("premature_beats", 3), Condition("gain", 0.5)]
)
def test_what_happens_at_the_electrodes_keeps_einthovens_law(condition: Condition) -> None:
    signal = record()
    changed = spoilt(condition, signal)
    assert np.abs(changed.astype(int) - signal).max() > 50
    assert np.abs(einthoven(signal)).max() <= ROUNDING_UV / 2
    limit = TURNED_UV if condition.perturbation == "premature_beats" else ROUNDING_UV
    assert np.abs(einthoven(changed)).max() <= limit
    assert np.abs(goldberger(changed)).max() <= limit


def test_swapped_leads_break_no_law_of_einthoven_and_are_exchanged() -> None:
    signal = record()
    changed = spoilt(Condition("lead_swap", 1.0), signal)
    order = list(range(12))
    order[4], order[5] = 5, 4
    assert LEADS[4:6] == ("aVL", "aVF")
    assert np.array_equal(changed, signal[order])
    assert not np.array_equal(changed, signal)


@pytest.mark.parametrize("condition", ALL, ids=str)
def test_the_same_draw_for_the_same_seed_and_study_alone(condition: Condition) -> None:
    signal = record()
    before = signal.copy()
    first = spoilt(condition, signal)
    assert np.array_equal(signal, before), "the record itself was changed"
    # Another record drawn in between does not matter.
    spoilt(condition, signal, seed=3, study_id=8)
    assert np.array_equal(spoilt(condition, signal), first)
    drawn = condition.perturbation in (*NOISES, "missing_leads", "premature_beats")
    others = [spoilt(condition, signal, study_id=number) for number in range(6, 12)]
    others += [spoilt(condition, signal, seed=number) for number in range(1, 7)]
    assert any(not np.array_equal(other, first) for other in others) == drawn


def test_a_greater_strength_is_more_of_the_same() -> None:
    signal = record()
    mild, hard = (spoilt(Condition("muscle_noise", snr), signal).astype(float) - signal for snr in (12.0, 0.0))
    # Four times the amplitude is 12.04 dB; rounding is a thousandth of the milder noise.
    assert np.corrcoef(mild.ravel(), hard.ravel())[0, 1] > 0.999
    for name in ("missing_leads", "premature_beats"):
        more = [spoilt(Condition(name, strength), signal) for strength in (1, 2, 3)]
        changed = [(each != signal).any(axis=0 if name == "premature_beats" else 1) for each in more]
        assert not (changed[0] & ~changed[1]).any()
        assert not (changed[1] & ~changed[2]).any()
        assert changed[0].sum() < changed[1].sum() < changed[2].sum()


@pytest.mark.parametrize("condition", ALL, ids=str)
def test_missing_samples_stay_missing(condition: Condition) -> None:
    signal = record()
    signal[7] = MISSING
    signal[0, 1200:2600] = MISSING
    changed = spoilt(condition, signal)
    assert changed.dtype == np.int16
    expected = signal == MISSING
    if condition.perturbation == "lead_swap":
        expected = expected[[0, 1, 2, 3, 5, 4, *range(6, 12)]]
    assert (changed == MISSING)[expected].all()
    if condition.perturbation in (*NOISES, "gain", "lead_swap"):
        assert np.array_equal(changed == MISSING, expected)


@pytest.mark.parametrize("condition", ALL, ids=str)
def test_large_samples_stop_at_the_ends_of_int16(condition: Condition) -> None:
    signal = np.clip(record().astype(int) * 40, -32767, 32767).astype(np.int16)
    changed = spoilt(condition, signal)
    # Nothing turned over into the other sign, and nothing became missing that was not to be.
    if condition.perturbation in ("gain", *NOISES):
        assert not (changed == MISSING).any()
    if condition == Condition("gain", 2.0):
        assert np.array_equal(changed, np.clip(2 * signal.astype(int), -32767, 32767))


@pytest.mark.parametrize("condition", ALL, ids=str)
def test_a_record_without_anything_in_it_is_no_error(condition: Condition) -> None:
    for value in (0, MISSING):
        changed = spoilt(condition, np.full((12, 5000), value, dtype=np.int16))
        assert np.isin(changed, (value, MISSING)).all()


def test_gain_is_exact() -> None:
    signal = record()
    assert np.array_equal(spoilt(Condition("gain", 2.0), signal), 2 * signal)
    assert np.array_equal(spoilt(Condition("gain", 0.5), 2 * signal), signal)
    assert np.abs(spoilt(Condition("gain", 0.5), signal) - signal / 2).max() == 0.5


def test_so_many_leads_are_missing_and_the_others_are_what_they_were() -> None:
    signal = record()
    for count in range(1, 7):
        changed = spoilt(Condition("missing_leads", count), signal)
        gone = (changed == MISSING).all(axis=1)
        assert gone.sum() == count
        assert np.array_equal(changed[~gone], signal[~gone])


def test_every_lead_goes_missing_as_often_as_another() -> None:
    signal, none = record(), np.empty(0, dtype=np.int32)
    gone = np.zeros(12)
    for seed in range(600):
        gone += (missing_leads(signal, none, 3, np.random.default_rng(seed)) == MISSING).all(axis=1)
    # 150 of 600 each, with a standard deviation of 10.6: five of them.
    assert np.abs(gone - 150).max() < 53


def test_five_seconds_are_what_a_reader_makes_of_a_short_file() -> None:
    signal = record()
    changed = spoilt(Condition("cut", 5.0), signal)
    assert np.array_equal(changed[:, :2500], signal[:, :2500])
    assert (changed[:, 2500:] == MISSING).all()


def test_premature_beats_are_found_where_they_were_put() -> None:
    signal = record()
    peaks = detect_r_peaks(signal)
    for seed in range(10):
        chosen = choose_beats(peaks, 3, np.random.default_rng(seed))
        changed = PERTURBATIONS["premature_beats"].change(signal, peaks, 3, np.random.default_rng(seed))
        expected = peaks.copy()
        for index, at in chosen:
            expected[index] = at
        found = detect_r_peaks(changed)
        assert len(found) == len(expected)
        # A wide QRS: half of what is allowed to a detector by the usual 75 ms.
        assert np.abs(found - expected).max() <= 18


def test_a_premature_beat_is_early_wide_and_followed_by_a_pause() -> None:
    signal = record()
    peaks = detect_r_peaks(signal)
    (index, at), *none = choose_beats(peaks, 1, np.random.default_rng(2))
    assert not none
    changed = PERTURBATIONS["premature_beats"].change(signal, peaks, 1, np.random.default_rng(2))
    before, beat, after = peaks[index - 1 : index + 2]
    assert COUPLING[0] <= (at - before) / (beat - before) <= COUPLING[1]
    # What comes before it and from the next P wave on is untouched: the pause makes up for the haste.
    assert np.array_equal(changed[:, : at - 45], signal[:, : at - 45])
    assert np.array_equal(changed[:, after - 100 :], signal[:, after - 100 :])
    lead = int(np.abs(signal[:, beat].astype(int) - signal[:, beat - 40]).argmax())

    def width(samples: np.ndarray, centre: int) -> int:
        """Samples around the R peak on its side of half its height over a point 40 ms ahead."""
        height = (samples - samples[centre - 20]) / (samples[centre] - samples[centre - 20])
        return int((height[centre - 20 : centre + 20] > 0.5).sum())

    assert width(changed[lead].astype(float), at) / width(signal[lead].astype(float), beat) == pytest.approx(
        1.8, abs=0.2
    )


def test_beats_have_to_have_room() -> None:
    # At 200 per minute no beat can be early by 60 ms and yet 280 ms after the one before it.
    fast = np.arange(100, 4900, 150).astype(np.int32)
    assert choose_beats(fast, 3, np.random.default_rng(0)) == []
    assert choose_beats(np.array([300, 900], dtype=np.int32), 3, np.random.default_rng(0)) == []
    assert choose_beats(np.empty(0, dtype=np.int32), 3, np.random.default_rng(0)) == []
    for seed in range(20):
        beats = np.cumsum(np.random.default_rng(seed).integers(150, 500, 12)).astype(np.int32)
        chosen = choose_beats(beats, 3, np.random.default_rng(seed))
        indices = [index for index, _ in chosen]
        assert all(later - earlier > 1 for earlier, later in pairwise(indices))
        assert all(at - beats[index - 1] >= EARLIEST and beats[index] - at >= 30 for index, at in chosen)
        assert all(0 < index < 11 for index in indices)


def test_any_beats_can_be_made_premature() -> None:
    generator = np.random.default_rng(0)
    signal = record()
    for _ in range(200):
        peaks = np.sort(generator.choice(5000, generator.integers(0, 25), replace=False)).astype(np.int32)
        changed = perturb(signal, peaks, Condition("premature_beats", 3), seed=0, study_id=1)
        assert np.abs(einthoven(changed)).max() <= TURNED_UV
        # The T wave is turned over: it may reach as far below the line as it did above.
        assert np.abs(changed.astype(int)).max() < 4 * np.abs(signal.astype(int)).max()


def test_noise_is_what_the_quality_measures_call_noise() -> None:
    noise = [measure(spoilt(Condition("muscle_noise", snr))).noise_uv.mean() for snr in SNR_DB]
    assert noise == sorted(noise)
    assert noise[-1] > 5 * noise[0]


def test_the_list_begins_with_the_clean_record() -> None:
    assert conditions(["gain", "cut"]) == [CLEAN, ("gain", 0.5), ("gain", 2), ("cut", 5)]
    assert np.array_equal(spoilt(CLEAN), record())
    assert PERTURBATIONS["gain"].steps == (0.5, None, 2)
    assert PERTURBATIONS["mains"].steps == (None, 24, 12, 6, 0)
    assert PERTURBATIONS["cut"].steps == (None, 5)


def test_an_unknown_perturbation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown perturbation 'hiccup': choose from baseline_wander, muscle_noise"):
        conditions(["hiccup"])
    with pytest.raises(ValueError, match="gain is named twice"):
        conditions(["gain", "gain"])
