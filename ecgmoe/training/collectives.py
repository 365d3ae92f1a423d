"""What the ranks tell each other, besides what the engine does. Free of DeepSpeed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    """All ranks' rows in rank order; backward sums what every rank's loss says of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts, rank = tuple(counts), dist.get_rank()
        ctx.first = sum(ctx.counts[:rank])
        # gloo gathers tensors of one shape only.
        padded = local.new_zeros((max(ctx.counts), *local.shape[1:]))
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in ctx.counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, ctx.counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[ctx.first : ctx.first + ctx.counts[dist.get_rank()]], None


def gather_rows(local: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows of all ranks in rank order, with gradients.

    Args:
        local: (b, ...), this rank's rows.
        counts: rows of each rank, b of this one among them.
    """
    return _GatherRows.apply(local, counts) if dist.get_world_size() > 1 else local


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum over the ranks (in place)."""
    if dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def gather_objects(value: Any) -> list[Any]:
    """One Python value of each rank, in rank order, on every rank."""
    if dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
