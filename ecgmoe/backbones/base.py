"""The backbone interface: F_k = f_k(DS_k(X)) (paper, Eq. 1).

A backbone says what it wants (samples after downsampling) and what it gives (tokens x width). `forward` takes the
canonical record in millivolt and does everything: downsampling, the encoder's own normalisation, encoding, pooling. The
same `forward` computes the cached features and runs in the training graph, so that both are one function.

Legend: B batch, C 12 leads, T 5000 samples, S samples that the backbone wants, M pooled tokens, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ecgmoe.backbones.resample import fourier_resample


class Backbone(nn.Module, ABC):
    """An ECG encoder without its forecasting or pretraining head.

    Attributes:
        name: registry key.
        samples: S, the length that `encode` takes for 10 s.
        tokens: M, number of pooled tokens.
        width: W, channels per token.
    """

    name: str
    samples: int
    tokens: int
    width: int

    @abstractmethod
    def encode(self, x_BCS: Tensor) -> Tensor:
        """The official, unpooled feature: (B, ..., W), from the backbone's own input (B, C, S) in mV."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Canonical records (B, 12, 5000) in mV, missing samples already 0, to pooled tokens (B, M, W)."""
        x_BCS = fourier_resample(x_BCT, self.samples)
        return pool_tokens(self.encode(x_BCS), self.tokens)


def pool_tokens(feature: Tensor, tokens: int) -> Tensor:
    """Average contiguous groups of tokens: (B, ..., W) to (B, tokens, W), in the order of the axes between.

    A feature of (B, 12 leads, 64 patches, W) becomes 12 tokens of one lead each or 4 tokens of three leads each.
    """
    flat = feature.flatten(1, -2)
    if flat.shape[1] < tokens:
        raise ValueError(f"cannot pool {flat.shape[1]} tokens into {tokens}: ask for at most {flat.shape[1]}")
    return torch.nn.functional.adaptive_avg_pool1d(flat.transpose(1, 2), tokens).transpose(1, 2)
