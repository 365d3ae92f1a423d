"""From stored samples to millivolt, on whatever device the batch is on."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgmoe.ecg.record import MISSING, UV_PER_MV


def to_millivolt(signal: Tensor) -> Tensor:
    """int16 microvolt (..., T) to fp32 millivolt; a missing sample becomes 0 mV."""
    return torch.where(signal == MISSING, 0.0, signal.float() / UV_PER_MV)
