"""What all ranks have to do at the same step, though only one of them knows of it: stop, or give a batch up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

GRADIENT = "gradient"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the ranks agreed on after a step.

    Attributes:
        place: what `post` was told of the step.
        stop: a rank was asked to stop.
        not_finite: losses that are not finite on a rank, and "gradient" where its norm is not.
    """

    place: Any
    stop: bool
    not_finite: tuple[str, ...]


class Agreement:
    """One small all-reduce per step, waited for one step later, so that no rank and no GPU stands still for it."""

    def __init__(self) -> None:
        self._pending: tuple[Any, tuple[str, ...], Tensor, Any] | None = None

    def post(self, place: Any, *, stop: bool, losses: Mapping[str, Tensor], norm: Tensor | float | None) -> None:
        """Tell the others of a step; every rank must call it, with the same losses.

        Args:
            place: where the step stands in the epoch.
            stop: this rank was asked to stop.
            losses: this rank's share of each.
            norm: of the gradient, None where the engine does not tell it.
        """
        values = dict(losses)
        if norm is not None:
            told = torch.as_tensor(norm, dtype=torch.float32, device=next(iter(losses.values())).device)
            # DeepSpeed writes -1 for one that is not finite.
            values[GRADIENT] = torch.where(told < 0, torch.nan, told)
        flags = [(~torch.isfinite(value)).float().reshape(()) for value in values.values()]
        flags.append(flags[0].new_full((), float(stop)))
        summed = torch.stack(flags)
        work = dist.all_reduce(summed, async_op=True) if dist.get_world_size() > 1 else None
        if summed.is_cuda:
            # Orders the copy behind the reduction on the GPU; the CPU goes on.
            if work is not None:
                work.wait()
            summed = torch.empty_like(summed, device="cpu", pin_memory=True).copy_(summed, non_blocking=True)
            work = torch.cuda.Event()
            work.record()
        self._pending = (place, tuple(values), summed, work)

    def take(self) -> Verdict | None:
        """What was agreed on the step posted last, or None where nothing is open; every rank must call it."""
        if self._pending is None:
            return None
        (place, names, summed, work), self._pending = self._pending, None
        if isinstance(work, torch.cuda.Event):
            work.synchronize()
        elif work is not None:
            work.wait()
        *bad, stop = (value > 0 for value in summed.tolist())
        return Verdict(place=place, stop=stop, not_finite=tuple(n for n, each in zip(names, bad, strict=True) if each))
