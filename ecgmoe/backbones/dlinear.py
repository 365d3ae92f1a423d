"""DLinear (Zeng et al., AAAI 2023, arXiv 2205.13504): one linear layer on the trend and one on the rest, per lead.

Legend: B batch, C 12 leads, S samples, H horizon (here the width of a token).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from ecgmoe.backbones import base
from ecgmoe.backbones.checkpoints import load_strictly, read_state, size_of

KERNEL = 25
"""Samples of the moving average in the official code."""


@dataclass(frozen=True, kw_only=True)
class Architecture(base.Architecture):
    """Sizes of DLinear.

    Attributes:
        samples: S.
        tokens: pooled tokens, at most the 12 leads.
        horizon: H, outputs per lead.
    """

    samples: int = 336
    tokens: int = 12
    horizon: int = 96


class DLinear(base.Backbone):
    """Decomposition and two linear layers shared by all leads; the feature is (B, 12, H)."""

    architecture_type = Architecture
    sizes = {"tiny": Architecture(horizon=32), "base": Architecture(), "large": Architecture()}

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, width=architecture.horizon)
        self.Linear_Seasonal = nn.Linear(architecture.samples, architecture.horizon)
        self.Linear_Trend = nn.Linear(architecture.samples, architecture.horizon)

    @classmethod
    def from_pretrained(cls, source: str, tokens: int | None = None) -> Self:
        state = read_state(Path(source))
        horizon, samples = (size_of(state, "Linear_Seasonal.weight", axis, source) for axis in (0, 1))
        backbone = cls(Architecture(samples=samples, horizon=horizon, tokens=tokens or cls.sizes["base"].tokens))
        load_strictly(backbone, state, source)
        return backbone

    def encode(self, x_BCS: Tensor) -> Tensor:
        """(B, 12, S) mV to (B, 12, H)."""
        ends = nn.functional.pad(x_BCS, (KERNEL // 2, KERNEL // 2), mode="replicate")
        trend = nn.functional.avg_pool1d(ends, KERNEL, stride=1)
        return self.Linear_Seasonal(x_BCS - trend) + self.Linear_Trend(trend)
