"""Augmented records: reproducible whoever reads them, other ones in each epoch, and still the ECG that its labels are of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecgmoe.ecg.record import MISSING, N_SAMPLES
from ecgmoe.training.augment import augmented, augmented_record
from ecgmoe.training.config import Augmentation
from model_examples import batch

ALL = Augmentation(amplitude=0.2, lead_dropout=0.1, noise_uv=20, shift_ms=300)


def test_a_record_is_the_same_in_any_batch_and_another_in_each_epoch() -> None:
    whole = batch((10, 14, 8, 11))
    first = augmented(whole, ALL, seed=3, epoch=5)
    for row in range(4):
        alone = augmented(whole.rows(row, row + 1), ALL, seed=3, epoch=5)
        assert torch.equal(alone.signal[0], first.signal[row])
        assert alone.r_peaks[0][alone.r_peaks[0] >= 0].tolist() == first.r_peaks[row][first.r_peaks[row] >= 0].tolist()
    for other in (augmented(whole, ALL, seed=4, epoch=5), augmented(whole, ALL, seed=3, epoch=6)):
        assert all(not torch.equal(other.signal[row], first.signal[row]) for row in range(4))
    # What was read is left as it was, with all else that belongs to it.
    assert torch.equal(whole.signal, batch((10, 14, 8, 11)).signal)
    assert first.labels is whole.labels
    assert first.features is whole.features


def test_without_options_nothing_is_touched() -> None:
    whole = batch()
    assert augmented(whole, Augmentation(), seed=0, epoch=0) is whole


def record() -> tuple[np.ndarray, np.ndarray]:
    signal = np.tile((1000 * np.sin(np.arange(N_SAMPLES) / 30)).astype(np.int16), (12, 1))
    signal[2] = MISSING
    signal[5, 100:200] = MISSING
    return signal, np.arange(100, 4900, 400, dtype=np.int32)


def changed(config: Augmentation, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return augmented_record(*record(), config, np.random.default_rng(seed))


def test_amplitude_is_one_gain_and_missing_stays_missing() -> None:
    signal, peaks = record()
    gains = []
    for seed in range(200):
        new, moved = changed(Augmentation(amplitude=0.2), seed)
        assert ((new == MISSING) == (signal == MISSING)).all()
        assert (moved == peaks).all()
        gains.append(new[0].astype(float).std() / signal[0].astype(float).std())
        assert new[7].astype(float).std() / signal[7].astype(float).std() == pytest.approx(gains[-1], rel=1e-3)
    assert np.std(np.log(gains)) == pytest.approx(0.2, rel=0.15)
    assert abs(np.mean(np.log(gains))) < 0.05


def test_leads_are_dropped_as_often_as_asked_and_one_always_stays() -> None:
    lost = [(changed(Augmentation(lead_dropout=0.3), seed)[0] == MISSING).all(1) for seed in range(300)]
    # Lead III was missing from the start.
    assert np.delete(np.mean(lost, axis=0), 2).mean() == pytest.approx(0.3 * 11 / 12, abs=0.03)
    nearly_all = [(changed(Augmentation(lead_dropout=0.99), seed)[0] == MISSING).all(1).sum() for seed in range(50)]
    assert max(nearly_all) <= 12
    assert min(nearly_all) >= 9


def test_noise_has_the_level_that_was_drawn() -> None:
    signal, _ = record()
    levels = [(changed(Augmentation(noise_uv=50), seed)[0][0].astype(float) - signal[0]).std() for seed in range(200)]
    assert 0 <= min(levels) < 5
    assert 45 < max(levels) < 52


def test_a_shift_moves_signal_and_peaks_together() -> None:
    signal, peaks = record()
    shifts = set()
    for seed in range(60):
        new, moved = changed(Augmentation(shift_ms=300), seed)
        shift = int(moved[3] - peaks[3]) if len(moved) == len(peaks) else int(moved[-1] - peaks[-1])
        shifts.add(shift)
        inside = slice(max(0, shift), N_SAMPLES + min(0, shift))
        origin = slice(max(0, -shift), N_SAMPLES - max(0, shift))
        assert (new[:, inside] == signal[:, origin]).all()
        assert (np.delete(new, np.r_[inside], axis=1) == MISSING).all()
        assert ((moved >= 0) & (moved < N_SAMPLES)).all()
    assert -150 <= min(shifts) < -100
    assert 100 < max(shifts) <= 150


def test_a_peak_that_leaves_the_record_is_dropped() -> None:
    signal, _ = record()
    lost = [
        augmented_record(
            signal, np.array([5, 2500, 4995], np.int32), Augmentation(shift_ms=300), np.random.default_rng(s)
        )
        for s in range(20)
    ]
    assert {len(peaks) for _, peaks in lost} == {2, 3} or {len(peaks) for _, peaks in lost} == {2}


def test_one_option_does_not_change_anothers_draw() -> None:
    one, _ = changed(Augmentation(lead_dropout=0.3), 4)
    both, _ = changed(Augmentation(lead_dropout=0.3, amplitude=0.3, noise_uv=10), 4)
    assert ((one == MISSING) == (both == MISSING)).all()


@pytest.mark.parametrize("wrong", [{"amplitude": -1}, {"lead_dropout": 1.0}, {"noise_uv": 5000}, {"shift_ms": -1}])
def test_wrong_values(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be in"):
        Augmentation(**wrong)
