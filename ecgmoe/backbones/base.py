"""The backbone interface: F_k = f_k(DS_k(X)) (paper, Eq. 1).

A backbone says what it wants (samples after downsampling) and what it gives (tokens x width). `forward` takes the
canonical record in millivolt and does everything: downsampling, the encoder's own normalisation, encoding, pooling. The
same `forward` computes the cached features and runs in the training graph, so that both are one function.

Legend: B batch, C 12 leads, T 5000 samples, S samples that the backbone wants, M pooled tokens, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ecgmoe.backbones.resample import fourier_resample


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of an encoder; each backbone extends it with its own.

    Attributes:
        samples: S, the length to which 10 s are resampled.
        tokens: M, number of pooled tokens that the model sees.
    """

    samples: int
    tokens: int


class Backbone(nn.Module, ABC):
    """An ECG encoder without its forecasting or pretraining head, at random weights when it is constructed.

    Attributes:
        architecture: its sizes; `type(backbone)(architecture)` builds the same encoder again.
        samples: S, the length that `encode` takes for 10 s.
        tokens: M, number of pooled tokens.
        width: W, channels per token.
    """

    unit_mv: ClassVar[float] = 1.0
    """The encoder's own input is in units of so many millivolts; encoders that normalise it themselves leave it at 1."""
    architecture_type: ClassVar[type[Architecture]]
    sizes: ClassVar[dict[str, Any]]
    """Named architectures: tiny, base, large."""

    def __init__(self, architecture: Any, *, width: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.samples, self.tokens, self.width = architecture.samples, architecture.tokens, width

    @classmethod
    def from_pretrained(cls, source: str, tokens: int | None = None) -> Self:
        """The encoder of a published checkpoint, its sizes inferred from the file, loaded strictly.

        Args:
            source: local path, or hub id where the official format has one.
            tokens: pooled tokens; None takes those of the size "base".

        Raises:
            CheckpointError: the file is missing, torn or of another model.
            ValueError: nobody published weights for this backbone.
        """
        raise ValueError(f"{cls.__name__} has no published weights: leave weights unset")

    @abstractmethod
    def encode(self, x_BCS: Tensor) -> Tensor:
        """The official, unpooled feature: (B, ..., W), from the backbone's own input (B, C, S) in units of `unit_mv`."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Canonical records (B, 12, 5000) in mV, missing samples already 0, to pooled tokens (B, M, W)."""
        x_BCS = fourier_resample(x_BCT, self.samples) / self.unit_mv
        return pool_tokens(self.encode(x_BCS), self.tokens)

    def describe(self) -> dict[str, Any]:
        """The architecture as plain values."""
        return asdict(self.architecture)


def pool_tokens(feature: Tensor, tokens: int) -> Tensor:
    """Average contiguous groups of tokens: (B, ..., W) to (B, tokens, W), in the order of the axes between.

    A feature of (B, 12 leads, 64 patches, W) becomes 12 tokens of one lead each or 4 tokens of three leads each.
    """
    flat = feature.flatten(1, -2)
    if flat.shape[1] < tokens:
        raise ValueError(f"cannot pool {flat.shape[1]} tokens into {tokens}: ask for at most {flat.shape[1]}")
    return nn.functional.adaptive_avg_pool1d(flat.transpose(1, 2), tokens).transpose(1, 2)


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Fixed positions of the transformer papers, sine on even and cosine on odd channels: (1, length, width)."""
    position = torch.arange(length).float()[:, None]
    frequency = torch.exp(torch.arange(0, width, 2).float() * -(torch.log(torch.tensor(10_000.0)) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table[None]
