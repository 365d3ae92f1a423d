"""DLinear (Zeng et al., AAAI 2023, arXiv 2205.13504): one linear layer on the trend and one on the rest, per lead.

The official code is cure-lab/LTSF-Linear (Apache-2.0); the attribute names are those of its checkpoints.

Legend: B batch, C 12 leads, S samples, H horizon (here the width of a token).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ecgmoe.backbones import base
from ecgmoe.backbones.base import moving_average
from ecgmoe.backbones.checkpoints import load_strictly, official_file, read_state, size_of
from ecgmoe.backbones.provenance import OWN_TRAINING, Provenance

KERNEL = 25
"""Samples of the moving average in the official code."""
LEADS = 12


@dataclass(frozen=True, kw_only=True)
class Architecture(base.Architecture):
    """Sizes of DLinear.

    Attributes:
        samples: S.
        tokens: pooled tokens, at most the 12 leads.
        horizon: H, outputs per lead.
        individual: each lead has linear layers of its own.
    """

    samples: int = 336
    tokens: int = 12
    horizon: int = 96
    individual: bool = False


class LinearPerLead(nn.ModuleList):
    """One linear layer per lead: (B, 12, S) to (B, 12, H)."""

    def forward(self, x_BCS: Tensor) -> Tensor:
        return torch.stack([linear(x_BCS[:, lead]) for lead, linear in enumerate(self)], 1)


def linear(architecture: Architecture) -> nn.Module:
    """The layer on one part of the signal, shared by the leads or one for each."""
    layers = [
        nn.Linear(architecture.samples, architecture.horizon) for _ in range(LEADS if architecture.individual else 1)
    ]
    return LinearPerLead(layers) if architecture.individual else layers[0]


class DLinear(base.Backbone):
    """A moving average and two linear layers, on it and on the rest; the feature is (B, 12, H)."""

    leads = "each alone"
    normalisation = "none (mV)"
    architecture_type = Architecture
    sizes = {"tiny": Architecture(horizon=32), "base": Architecture(), "large": Architecture()}

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, width=architecture.horizon)
        self.Linear_Seasonal = linear(architecture)
        self.Linear_Trend = linear(architecture)

    @classmethod
    def from_official(cls, source: str) -> Self:
        """From a state dict of LTSF-Linear; nobody published one trained on ECGs."""
        file = official_file(source, "*.pth")
        state = read_state(file)
        individual = "Linear_Seasonal.0.weight" in state
        key = f"Linear_Seasonal.{'0.' if individual else ''}weight"
        horizon, samples = (size_of(state, key, axis, source) for axis in (0, 1))
        backbone = cls(Architecture(samples=samples, horizon=horizon, individual=individual))
        load_strictly(backbone, state, source)
        backbone.provenance = Provenance.of_file(file, source=source, licence=OWN_TRAINING, pretraining=OWN_TRAINING)
        return backbone

    def encode(self, x_BCS: Tensor) -> Tensor:
        """(B, 12, S) mV to (B, 12, H)."""
        trend = moving_average(x_BCS, KERNEL)
        return self.Linear_Seasonal(x_BCS - trend) + self.Linear_Trend(trend)
