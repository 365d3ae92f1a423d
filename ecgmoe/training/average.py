"""The running mean of the weights, which is what a run validates, saves as its model and predicts with.

A mean over the last steps lies where the loss is flat and generalises better than any of them (Polyak and Juditsky, SIAM J.
Control Optim. 1992; Izmailov et al., UAI 2018, arXiv 1803.05407). Training itself goes on from the weights as they are.

Each rank keeps the mean of what it holds: of all weights up to ZeRO stage 2, of its own part of each at stage 3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ecgmoe.model.folder import OF_LOSSES
from ecgmoe.training.optimizer_state import own_part


class WeightAverage:
    """The mean of the trained weights of an engine's model, exponentially weighted.

    Args:
        engine: of this rank; its weights as they are now are where the mean starts.
        decay: share that the mean keeps at a step, less in the first ones (1 + n) / (10 + n), so that it soon forgets the
            initialisation; 0 keeps none, and everything here does nothing.
    """

    def __init__(self, engine: Any, decay: float) -> None:
        self.engine, self.decay = engine, decay
        self.parameters: dict[str, Any] = {
            name: parameter
            for name, parameter in engine.module.named_parameters()
            if decay and parameter.requires_grad and not name.startswith(OF_LOSSES)
        }
        self.mean = {name: tensor.clone() for name, tensor in self._held().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after that many steps."""
        if self.mean:
            keep = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.mean.values()), list(self._held().values()), 1 - keep)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The mean stands in the weights' place; every rank must enter it, and no step may be made inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, file: Path) -> None:
        """Set the mean from the model file of a checkpoint, whatever layout wrote it; each rank takes its part."""
        if not self.mean:
            return
        with safe_open(file, "pt") as weights:
            for name, parameter in self.parameters.items():
                whole = weights.get_tensor(name)
                self.mean[name].copy_(own_part(parameter, whole) if hasattr(parameter, "ds_tensor") else whole)

    def _held(self) -> dict[str, Tensor]:
        """This rank's part of each weight."""
        return {name: getattr(each, "ds_tensor", each).data for name, each in self.parameters.items()}

    @torch.no_grad()
    def _swap(self) -> None:
        if not self.mean:
            return
        sharded = self.engine.zero_optimization_stage() == 3
        if sharded:
            # Small weights stay gathered between steps: they are put away, and gathered again from what stands then.
            self.engine.optimizer.checkpoint_event_prologue()
        for name, held in self._held().items():
            weight = held.clone()
            held.copy_(self.mean[name])
            self.mean[name].copy_(weight)
        if sharded:
            self.engine.optimizer.checkpoint_event_epilogue()
