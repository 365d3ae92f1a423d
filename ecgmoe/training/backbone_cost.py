"""What each backbone costs, for a gate that is to prefer cheap ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ecgmoe.backbones.base import Backbone
from ecgmoe.ecg.record import N_LEADS, N_SAMPLES


def relative_costs(backbones: Iterable[Backbone]) -> tuple[float, ...]:
    """FLOPs of each for a record, over their mean: matrix products and convolutions of a forward pass, as torch counts them.

    The same on every rank and machine, which times are not. They leave out what moves data alone, so that a small encoder
    takes longer than its share of them says.
    """
    flops = [forward_flops(backbone) for backbone in backbones]
    mean = sum(flops) / len(flops)
    return tuple(each / mean for each in flops)


def forward_flops(backbone: Backbone) -> int:
    """FLOPs of a record of noise, always the same one: what an encoder computes may depend on the record (TimesNet)."""
    noise = torch.randn(1, N_LEADS, N_SAMPLES, generator=torch.Generator().manual_seed(0))
    training = backbone.training
    # In evaluation mode no random number is drawn. A fused attention kernel would not be counted everywhere.
    backbone.eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        backbone(noise)
    backbone.train(training)
    return counted.get_total_flops()
