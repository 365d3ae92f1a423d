"""What ECG-MoE is compared with (paper, Table 3): other ways from the backbones' tokens to the features that heads read.

All of them see the same projected tokens and none sees beats; all but the plain concatenation, which the heads read as it is,
feed the same adapted trunk and heads.

Legend: B batch, K backbones, M tokens of all backbones, D width, E experts, P tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ecgmoe.backbones.base import sinusoidal_positions
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.gating import Positions


class Mixture(nn.Module, ABC):
    """From the tokens of each backbone, (B, M_k, D), to (B, P, I), and the weights of experts (B, P, E) or None.

    Attributes:
        width: I. P is 1 where the tasks share what comes out.
    """

    width: int

    @abstractmethod
    def forward(self, tokens: Sequence[Tensor], tasks: Positions) -> tuple[Tensor, Tensor | None]:
        """Of the tasks at these positions."""


class Concatenation(Mixture):
    """`concat`: the mean token of each backbone, side by side (the paper's multi-task baseline, and a linear probe)."""

    def __init__(self, config: ModelConfig, backbones: int, tasks: int) -> None:
        super().__init__()
        self.width = backbones * config.width
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Sequence[Tensor], tasks: Positions) -> tuple[Tensor, None]:
        return self.dropout(mean_tokens(tokens))[:, None], None


class SparseMixture(Mixture):
    """`moe`: a generic mixture of networks over the mean tokens, of which each record and task uses the best k."""

    def __init__(self, config: ModelConfig, backbones: int, tasks: int) -> None:
        super().__init__()
        self.width, self.top_k = config.width, config.top_k
        inputs = backbones * config.width
        self.experts = nn.ModuleList(feed_forward(inputs, config.width) for _ in range(config.mixture_experts))
        self.embedding = nn.Parameter(torch.randn(tasks, config.width))
        self.gate = nn.Linear(inputs + config.width, config.mixture_experts)

    def forward(self, tokens: Sequence[Tensor], tasks: Positions) -> tuple[Tensor, Tensor]:
        x = mean_tokens(tokens)[:, None]
        e = self.embedding[tasks].to(x.dtype).expand(x.shape[0], -1, -1)
        g = keep_top(self.gate(torch.cat([x.expand(-1, e.shape[1], -1), e], -1)).softmax(-1), self.top_k)
        # Every expert is computed and the weights are masked: ranks that called different ones would wait for each other.
        each = torch.stack([expert(x[:, 0]) for expert in self.experts], 1)
        return torch.einsum("bpe,bed->bpd", g.to(each.dtype), each), g


class CausalMixture(Mixture):
    """`time_moe`: a causal transformer layer over the tokens, its feed-forward part a sparse mixture for each token."""

    def __init__(self, config: ModelConfig, backbones: int, tasks: int) -> None:
        super().__init__()
        self.width, self.top_k = config.width, config.top_k
        self.attention_norm, self.mixture_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = nn.MultiheadAttention(config.width, config.attention_heads, batch_first=True)
        self.experts = nn.ModuleList(feed_forward(config.width, config.width) for _ in range(config.mixture_experts))
        self.gate = nn.Linear(config.width, config.mixture_experts)

    def forward(self, tokens: Sequence[Tensor], tasks: Positions) -> tuple[Tensor, Tensor]:
        x = torch.cat(list(tokens), 1)
        x = x + sinusoidal_positions(x.shape[1], x.shape[2]).to(x)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, normed, attn_mask=later, need_weights=False)[0]
        normed = self.mixture_norm(x)
        g = keep_top(self.gate(normed).softmax(-1), self.top_k)
        each = torch.stack([expert(normed) for expert in self.experts], 2)
        x = x + torch.einsum("bme,bmed->bmd", g.to(each.dtype), each)
        # The last token has seen all others.
        return x[:, -1:], g.mean(1, keepdim=True)


class SelfAttention(Mixture):
    """`self_attn`: a transformer layer over the tokens and one token of each task."""

    def __init__(self, config: ModelConfig, backbones: int, tasks: int) -> None:
        super().__init__()
        self.width = config.width
        self.query = nn.Parameter(torch.randn(tasks, config.width))
        self.layer = nn.TransformerEncoderLayer(
            config.width,
            config.attention_heads,
            2 * config.width,
            config.dropout,
            "gelu",
            batch_first=True,
            norm_first=True,
        )

    def forward(self, tokens: Sequence[Tensor], tasks: Positions) -> tuple[Tensor, None]:
        query = self.query[tasks].to(tokens[0].dtype).expand(tokens[0].shape[0], -1, -1)
        # Task tokens see the backbones' tokens and themselves, not each other: a task alone predicts as among all.
        count, total = query.shape[1], query.shape[1] + sum(each.shape[1] for each in tokens)
        hidden = torch.zeros(total, total, dtype=torch.bool, device=query.device)
        hidden[:, :count] = True
        hidden[:count, :count] = ~torch.eye(count, dtype=torch.bool, device=query.device)
        return self.layer(torch.cat([query, *tokens], 1), src_mask=hidden)[:, :count], None


class CrossAttention(Mixture):
    """`cross_attn`: a query of each task reads the tokens."""

    def __init__(self, config: ModelConfig, backbones: int, tasks: int) -> None:
        super().__init__()
        self.width = config.width
        self.query = nn.Parameter(torch.randn(tasks, config.width))
        self.attention = nn.MultiheadAttention(config.width, config.attention_heads, batch_first=True)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Sequence[Tensor], tasks: Positions) -> tuple[Tensor, None]:
        x = torch.cat(list(tokens), 1)
        query = self.query[tasks].to(x.dtype).expand(x.shape[0], -1, -1)
        return self.norm(query + self.attention(query, x, x, need_weights=False)[0]), None


MIXTURES: dict[str, type[Mixture]] = {
    "concat": Concatenation,
    "moe": SparseMixture,
    "time_moe": CausalMixture,
    "self_attn": SelfAttention,
    "cross_attn": CrossAttention,
}


def mean_tokens(tokens: Sequence[Tensor]) -> Tensor:
    """The mean token of each backbone, side by side: (B, K D)."""
    return torch.cat([each.mean(1) for each in tokens], 1)


def feed_forward(inputs: int, width: int) -> nn.Sequential:
    """Two layers, (..., inputs) to (..., width)."""
    return nn.Sequential(nn.Linear(inputs, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def keep_top(weights: Tensor, k: int) -> Tensor:
    """The k largest weights of the last axis, scaled to a sum of 1; the others are 0."""
    top = weights.topk(min(k, weights.shape[-1]), -1)
    kept = torch.zeros_like(weights).scatter(-1, top.indices, top.values)
    return kept / kept.sum(-1, keepdim=True)
