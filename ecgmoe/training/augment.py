"""Training records changed a little, each time another way: the same change whatever rank reads the record, and however often.

All draws come from (seed, epoch, study), so that a run that was interrupted, or that goes on with other workers, trains on
the same records. Labels stay: what is done keeps rhythm, age, sex and potassium, and R peaks move with the signal. Cached
features are those of the record as it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from ecgmoe.ecg.record import MAX_UV, MISSING, N_LEADS, N_SAMPLES, SAMPLING_RATE_HZ, Signal
from ecgmoe.model.batch import ECGBatch, pad_r_peaks
from ecgmoe.training.config import Augmentation

Peaks = npt.NDArray[np.int32]


def augmented(batch: ECGBatch, config: Augmentation, *, seed: int, epoch: int) -> ECGBatch:
    """The batch with every record changed; the batch itself where nothing is to be changed."""
    if config == Augmentation():
        return batch
    signals, peaks = [], []
    rows = zip(batch.study_id.tolist(), batch.signal.numpy(), batch.r_peaks.numpy(), strict=True)
    for study, signal, found in rows:
        random = np.random.default_rng(np.random.SeedSequence([seed, epoch, study]))
        changed, moved = augmented_record(signal, found[found >= 0], config, random)
        signals.append(torch.from_numpy(changed))
        peaks.append(moved)
    return replace(batch, signal=torch.stack(signals), r_peaks=pad_r_peaks(peaks))


def augmented_record(
    signal: Signal, r_peaks: Peaks, config: Augmentation, random: np.random.Generator
) -> tuple[Signal, Peaks]:
    """One record; the numbers that decide are drawn in a fixed order, so that one option does not change another's.

    Args:
        signal: int16 (12, 5000) microvolt.
        r_peaks: int32 (beats,).
        config: how much.
        random: of this record, in this epoch.

    Returns:
        The record, missing samples where they were and where the shift leaves none, and its R peaks.
    """
    gain = np.exp(config.amplitude * random.standard_normal())
    dropped = random.random(N_LEADS) < config.lead_dropout
    kept = random.integers(N_LEADS)
    level = config.noise_uv * random.random()
    shift = round(config.shift_ms * SAMPLING_RATE_HZ / 1000 * random.uniform(-1, 1))
    missing = signal == MISSING
    # One lead always stays.
    missing[dropped & (np.arange(N_LEADS) != kept)] = True
    x = signal.astype(np.float32) * np.float32(gain)
    if level:
        x += np.float32(level) * random.standard_normal(x.shape, dtype=np.float32)
    changed = np.where(missing, MISSING, np.clip(np.rint(x), -MAX_UV, MAX_UV)).astype(np.int16)
    if not shift:
        return changed, r_peaks.copy()
    moved = np.roll(changed, shift, axis=1)
    empty = slice(0, shift) if shift > 0 else slice(N_SAMPLES + shift, N_SAMPLES)
    moved[:, empty] = MISSING
    peaks = r_peaks + np.int32(shift)
    return moved, peaks[(peaks >= 0) & (peaks < N_SAMPLES)]
