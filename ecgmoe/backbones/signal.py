"""From stored samples to millivolt, on whatever device the batch is on."""

from __future__ import annotations

import torch
from torch import Tensor

MISSING = -32768
MV_PER_UV = 1e-3


def to_millivolt(signal: Tensor) -> Tensor:
    """int16 microvolt (..., T) to fp32 millivolt; a missing sample becomes 0 mV."""
    return torch.where(signal == MISSING, 0.0, signal.float() * MV_PER_UV)
