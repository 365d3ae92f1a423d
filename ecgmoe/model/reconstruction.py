"""Masked reconstruction: encoders that learn from ECGs without labels, by filling in what was hidden of them.

As masked autoencoders do (He et al., CVPR 2022, arXiv 2111.06377; for ECGs Na et al., ICLR 2024, arXiv 2402.09450), with the
samples hidden at the encoder's input, so that any encoder that keeps the order of time can learn by it.

Legend: B batch, L 12 leads, S samples of the encoder, P patches of a lead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.ecg.record import MISSING, N_LEADS, N_SAMPLES
from ecgmoe.model.batch import ECGBatch

PATCHES = 40
"""Of a lead, hidden or not as a whole: a quarter of a second each, as long as a QRS complex with its ST segment."""
UNIT_MV = 0.25
"""Errors are told in it, so that they are of the order of 1."""
HIDDEN = "hidden"
"""Under this name a batch carries what is hidden, (B, L, P)."""
MOMENTS, PATCHES_ALONE, LEADS_ALONE = 0.3, 0.2, 0.25
"""Shares that are hidden, each drawn by itself: of moments in all leads, of patches of one lead, and of whole leads."""
GAIN, TURNED = 0.2, 0.5
"""Standard deviation of the logarithm of a gain, and the share of records that begin at another sample."""


def hide(batch: ECGBatch, *, seed: int, epoch: int) -> ECGBatch:
    """What is to be filled in, drawn from (seed, epoch, study) whatever rank reads the record.

    Returns:
        The batch with other gains and beginnings, and bool (B, L, P) under `HIDDEN`.
    """
    signals, hidden = [], []
    for study, signal in zip(batch.study_id.tolist(), batch.signal.numpy(), strict=True):
        # The last number, so that this is no augmentation of the record's training.
        random = np.random.default_rng(np.random.SeedSequence([seed, epoch, study, 1]))
        gain, turned, start = random.standard_normal(), random.random() < TURNED, random.integers(N_SAMPLES)
        changed = np.clip(np.rint(signal * np.exp(GAIN * gain)), -np.iinfo(np.int16).max, np.iinfo(np.int16).max)
        changed = np.where(signal == MISSING, MISSING, changed).astype(np.int16)
        signals.append(torch.from_numpy(np.roll(changed, start, 1) if turned else changed))
        moments = random.random((1, PATCHES)) < MOMENTS
        patches = random.random((N_LEADS, PATCHES)) < PATCHES_ALONE
        leads = random.random((N_LEADS, 1)) < LEADS_ALONE
        hidden.append(torch.from_numpy(moments | patches | leads))
    return replace(batch, signal=torch.stack(signals), features={HIDDEN: torch.stack(hidden)})


def require_along_time(name: str, kind: type[Backbone]) -> None:
    """Refuse a class of encoders that an ECG cannot be reconstructed from.

    Raises:
        ValueError: naming it.
    """
    if kind.along_time is Backbone.along_time:
        raise ValueError(
            f"backbone {name} ({kind.__name__}) has no features along time that an ECG could be reconstructed from: leave it "
            "out of pretraining.backbones"
        )


class MaskedReconstruction(nn.Module):
    """Encoders, each with a linear decoder to the samples that it stands for.

    Args:
        backbones: by name; each must have features along time.

    Raises:
        ValueError: one has none.
    """

    def __init__(self, backbones: Mapping[str, Backbone]) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict(dict(backbones))
        decoders = {}
        for name, backbone in backbones.items():
            require_along_time(name, type(backbone))
            with torch.no_grad():
                _, channels, steps = backbone.along_time(torch.zeros(1, N_LEADS, backbone.samples)).shape
            if backbone.samples % steps:
                raise ValueError(
                    f"backbone {name}: {steps} steps along time do not divide its {backbone.samples} samples"
                )
            decoders[name] = nn.Conv1d(channels, N_LEADS * (backbone.samples // steps), 1)
        self.decoders = nn.ModuleDict(decoders)

    def forward(self, batch: ECGBatch) -> dict[str, Tensor]:
        """Mean absolute error over what is hidden and known of each record, in `UNIT_MV`: (B,) by backbone."""
        x_BLT, errors = to_millivolt(batch.signal), {}
        known_BLT = (batch.signal != MISSING).float()
        for name, decoder in self.decoders.items():
            backbone: Backbone = self.backbones[name]  # type: ignore[assignment]
            x = backbone.own_input(x_BLT)
            hidden = nn.functional.interpolate(batch.features[HIDDEN].float(), x.shape[-1]).bool()
            decoded = decoder(backbone.along_time(x.masked_fill(hidden, 0.0)))
            y = decoded.unflatten(1, (N_LEADS, -1)).transpose(2, 3).flatten(2).float()
            asked = hidden & nn.functional.interpolate(known_BLT, x.shape[-1]).bool()
            error = ((y - x).abs() * asked).sum((1, 2))
            errors[name] = error / asked.sum((1, 2)).clamp(min=1) / UNIT_MV
        return errors
