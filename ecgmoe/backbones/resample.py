"""DS_k, the paper's "adaptive downsampling": the Fourier method, on the device and in batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fourier_resample(x: Tensor, samples: int) -> Tensor:
    """Resample the last axis to `samples` by truncating (or padding) its spectrum, as scipy.signal.resample does.

    Always in fp32: a bf16 spectrum would be off by several percent.

    Args:
        x: (..., T) real.
        samples: length wanted.

    Returns:
        (..., samples) fp32.
    """
    length = x.shape[-1]
    if samples == length:
        return x.float()
    with torch.autocast(x.device.type, enabled=False):
        spectrum = torch.fft.rfft(x.float())
        shorter = min(length, samples)
        spectrum = spectrum[..., : shorter // 2 + 1]
        if shorter % 2 == 0:
            # The Nyquist bin of the shorter grid stands for two bins of the longer one.
            factor = torch.ones(shorter // 2 + 1, device=x.device)
            factor[-1] = 2.0 if samples < length else 0.5
            spectrum = spectrum * factor
        return torch.fft.irfft(spectrum, n=samples) * (samples / length)


class FourierResample(nn.Module):
    """`fourier_resample` to a length that is known beforehand, as a module that an inference form can replace."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        """(..., T) to (..., samples) fp32."""
        return fourier_resample(x, self.samples)
