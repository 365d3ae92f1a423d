"""What each backbone costs, for a gate that is to prefer cheap ones."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch

from ecgmoe.backbones.base import Backbone
from ecgmoe.ecg.record import N_LEADS, N_SAMPLES
from ecgmoe.flops import count_flops


def relative_costs(backbones: Iterable[Backbone]) -> tuple[float, ...]:
    """FLOPs of each for a record, over their mean: matrix products and convolutions of a forward pass, as torch counts them.

    The same on every rank and machine, which times are not. They leave out what moves data alone, so that a small encoder
    takes longer than its share of them says.
    """
    flops = [forward_flops(backbone) for backbone in backbones]
    # Encoders without any product or convolution cost nothing.
    mean = sum(flops) / len(flops) or 1.0
    return tuple(each / mean for each in flops)


def forward_flops(backbone: Backbone) -> int:
    """FLOPs of a record of noise, always the same one: what an encoder computes may depend on the record (TimesNet)."""
    noise = torch.randn(1, N_LEADS, N_SAMPLES, generator=torch.Generator().manual_seed(0))
    # A copy, so that no mode changes and no random number is drawn.
    encoder = copy.deepcopy(backbone).eval().requires_grad_(False)
    return count_flops(lambda: encoder(noise))
