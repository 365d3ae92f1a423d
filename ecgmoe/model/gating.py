"""Task-conditioned gates (paper, Eq. 3 and the alphas of Eq. 4).

Legend: B batch, P tasks, X global characteristics, T width of a task embedding, E what is chosen among.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Positions = slice | list[int]
"""Which tasks, as an index of the axis P; a slice for all of them, which copies nothing."""


class TaskConditioning(nn.Module):
    """[x_bar + e_t]: the standardised global characteristics beside the task's embedding, (B, P, X + T)."""

    def __init__(self, tasks: int, characteristics: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(tasks, width))
        self.width = characteristics + width

    def forward(self, x_bar_BX: Tensor, tasks: Positions) -> Tensor:
        """For the tasks at these positions."""
        e = self.embedding[tasks].to(x_bar_BX.dtype)
        return torch.cat([x_bar_BX[:, None].expand(-1, e.shape[0], -1), e.expand(x_bar_BX.shape[0], -1, -1)], -1)


class ExpertGate(nn.Module):
    """Eq. 3: g_p = softmax(U_p [x_bar + e_t]), (B, P, E), one U_p for each task; `temperature` is no part of the paper."""

    def __init__(self, tasks: int, conditioning: int, experts: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.U = nn.Parameter(torch.randn(tasks, experts, conditioning) * conditioning**-0.5 * 0.1)

    def forward(self, conditioning_BPX: Tensor, tasks: Positions) -> Tensor:
        """For the tasks at these positions, in their order."""
        logits = torch.einsum("pex,bpx->bpe", self.U[tasks].to(conditioning_BPX.dtype), conditioning_BPX)
        # Also where it is 1: dividing by it changes no bit.
        return (logits / self.temperature).softmax(-1)


class FusionGate(nn.Module):
    """Eq. 4: alpha from a task-conditioned network, a softmax over `choices`, (B, P, choices)."""

    def __init__(self, conditioning: int, width: int, choices: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(conditioning, width), nn.GELU(), nn.Linear(width, choices))

    def forward(self, conditioning_BPX: Tensor, taken_BK: Tensor | None = None) -> Tensor:
        """Over all choices, or over those that each record takes alone, with 0 for the others."""
        logits = self.network(conditioning_BPX)
        if taken_BK is not None:
            logits = logits.masked_fill(~taken_BK[:, None], -torch.inf)
        return logits.softmax(-1)

    def preference(self, conditioning_BPX: Tensor, among: Sequence[int]) -> Tensor:
        """Weights over the choices at these positions as if there were no others, mean over the tasks: (B, len(among))."""
        return self.network(conditioning_BPX)[..., list(among)].float().softmax(-1).mean(1)

    @torch.no_grad()
    def most_weighed(self, conditioning_BPX: Tensor, count: int, always: Sequence[int] = ()) -> Tensor:
        """Which choices each record takes, bool (B, K): `always` these positions, and `count` of the others, those with the
        largest mean weight over the tasks. In fp32, and the first wins a tie: rounding must not choose, or a model that
        was trained in bf16 and predicts in fp32 would take others."""
        with torch.autocast(conditioning_BPX.device.type, enabled=False):
            weight_BK = self(conditioning_BPX.float()).mean(1)
        fixed = torch.zeros_like(weight_BK, dtype=torch.bool)
        fixed[:, list(always)] = True
        weight_BK = weight_BK.masked_fill(fixed, -1.0)
        # How many come before each one: a stable sort, which ONNX does not have.
        before = weight_BK[:, None] > weight_BK[..., None]
        ties = (weight_BK[:, None] == weight_BK[..., None]).tril(-1)
        return fixed | ((before | ties).sum(-1) < count)
