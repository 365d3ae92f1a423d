"""A plain 1-D residual network on the waveform: the strong simple model that ECG-MoE has to beat, no encoder of the paper.

After the residual networks that lead on PTB-XL (Strodthoff et al., IEEE J-BHI 2021, arXiv 2004.13701: xresnet1d; its
concatenated mean and maximum over time stay), with group in place of batch normalisation, so that a record's result does
not depend on its neighbours.

Legend: B batch, C 12 leads, S samples, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ecgmoe.backbones import base
from ecgmoe.ecg.record import N_LEADS

KERNEL = 5
GROUPS = 8
"""Channels are normalised in so many groups."""


@dataclass(frozen=True, kw_only=True)
class Architecture(base.Architecture):
    """Sizes of the residual network.

    Attributes:
        samples: S; 1000 is 100 Hz.
        tokens: 1.
        channels: of each stage; each but the first halves the samples.
        blocks: residual blocks of a stage.
    """

    samples: int = 1000
    tokens: int = 1
    channels: tuple[int, ...] = (32, 64, 128)
    blocks: int = 2


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its normalisation: (B, inputs, S) to (B, outputs, S / stride)."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, KERNEL, stride, padding=KERNEL // 2, bias=False), nn.GroupNorm(GROUPS, outputs)
    )


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut that keeps the samples' means."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = convolution(inputs, outputs, stride), convolution(outputs, outputs)
        changes = [nn.AvgPool1d(stride, ceil_mode=True)] if stride > 1 else []
        projection = [nn.Conv1d(inputs, outputs, 1)] if inputs != outputs else []
        self.shortcut = nn.Sequential(*changes, *projection)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S) to (B, outputs, S / stride)."""
        return nn.functional.relu(self.shortcut(x) + self.second(nn.functional.relu(self.first(x))))


class ResidualNetwork(base.Backbone):
    """Strided convolution, stages of residual blocks, mean and maximum over time; the feature is (B, 1, 2 W)."""

    leads = "together"
    normalisation = "none (mV)"
    architecture_type = Architecture
    sizes = {
        "tiny": Architecture(channels=(16, 32), blocks=1),
        "base": Architecture(),
        "large": Architecture(channels=(64, 128, 256), blocks=3),
    }

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, width=2 * architecture.channels[-1])
        first = architecture.channels[0]
        self.stem = nn.Sequential(convolution(N_LEADS, first, stride=2), nn.ReLU())
        stages: list[nn.Module] = []
        inputs = first
        for stage, outputs in enumerate(architecture.channels):
            for block in range(architecture.blocks):
                stages.append(ResidualBlock(inputs, outputs, stride=2 if stage and not block else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)

    def along_time(self, x_BCS: Tensor) -> Tensor:
        """(B, 12, S) mV to (B, W, S / 8), or as many halvings as there are stages."""
        return self.stages(self.stem(x_BCS))

    def encode(self, x_BCS: Tensor) -> Tensor:
        """(B, 12, S) mV to (B, 1, 2 W)."""
        x = self.along_time(x_BCS)
        return torch.cat([x.mean(-1), x.amax(-1)], 1)[:, None]
