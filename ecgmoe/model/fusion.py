"""Multi-model features and hierarchical fusion with one low-rank adapter per task (paper, Eq. 2 and 4).

Legend: B batch, K backbones, M tokens of a backbone, D width, P tasks, I and O input and output width, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ecgmoe.model.gating import Positions


class MultiModelFeatures(nn.Module):
    """Eq. 2: F_m = concat_k (W_k F_k + b_k), with the tokens of each backbone pooled by a learnt query: (B, K, D).

    Args:
        widths: of each backbone's tokens.
        width: D.
        pooled: have the queries; without them only `tokens` can be called.
    """

    def __init__(self, widths: Mapping[str, int], width: int, *, pooled: bool = True) -> None:
        super().__init__()
        self.norm = nn.ModuleDict({name: nn.LayerNorm(w) for name, w in widths.items()})
        self.project = nn.ModuleDict({name: nn.Linear(w, width) for name, w in widths.items()})
        self.query = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.02) for name in widths if pooled})

    def tokens(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """W_k F_k + b_k of each backbone: (B, M_k, D), in the order of the names given at construction."""
        return [self._tokens(name, features[name]) for name in self.project]

    def mean_token(self, features: Mapping[str, Tensor], name: str) -> Tensor:
        """Mean of the normalised tokens of one backbone, at its own width: (B, W_k)."""
        return self.norm[name](features[name]).mean(1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Tokens (B, M_k, W_k) by backbone name to (B, K, D), in the order of the names given at construction."""
        return torch.stack([self.pooled(name, features[name]) for name in self.project], 1)

    def pooled(self, name: str, features: Tensor) -> Tensor:
        """Tokens (B, M_k, W_k) of one backbone to (B, D)."""
        tokens = self._tokens(name, features)
        score = tokens @ self.query[name].to(tokens.dtype) / tokens.shape[-1] ** 0.5
        return (score.softmax(-1)[..., None] * tokens).sum(1)

    def _tokens(self, name: str, features: Tensor) -> Tensor:
        return self.project[name](self.norm[name](features))


class TaskLoRALinear(nn.Module):
    """A shared linear layer with a low-rank adapter per task: y_p = W x_p + b + alpha / R B_p A_p x_p.

    All tasks run in one pass, which peft refuses while training. B is zero at the start, so that every task begins as W.
    Rank 0 leaves the adapters out.
    """

    def __init__(self, inputs: int, outputs: int, *, tasks: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.shared = nn.Linear(inputs, outputs)
        self.A = nn.Parameter(torch.randn(tasks, rank, inputs) * inputs**-0.5) if rank else None
        self.B = nn.Parameter(torch.zeros(tasks, outputs, rank)) if rank else None
        self.scale = alpha / max(rank, 1)

    def forward(self, x_BPI: Tensor, tasks: Positions) -> Tensor:
        """(B, P, I) to (B, P, O), of the tasks at these positions."""
        if self.A is None or self.B is None:
            return self.shared(x_BPI)
        low = torch.einsum("bpi,pri->bpr", x_BPI, self.A[tasks].to(x_BPI.dtype))
        return self.shared(x_BPI) + self.scale * torch.einsum("bpr,por->bpo", low, self.B[tasks].to(x_BPI.dtype))


class FusionTrunk(nn.Module):
    """Two adapted layers from F_fused to the features that the heads read: (B, P, I) to (B, P, D)."""

    def __init__(self, inputs: int, width: int, *, tasks: int, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.first = TaskLoRALinear(inputs, 2 * width, tasks=tasks, rank=rank, alpha=alpha)
        self.second = TaskLoRALinear(2 * width, width, tasks=tasks, rank=rank, alpha=alpha)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, fused_BPI: Tensor, tasks: Positions) -> Tensor:
        hidden = self.dropout(nn.functional.gelu(self.first(self.dropout(fused_BPI), tasks)))
        return self.norm(self.second(hidden, tasks))
