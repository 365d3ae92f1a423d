"""Plain DistributedDataParallel behind what the training loop calls of DeepSpeed's engine: the baseline."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ecgmoe.training.config import TrainingConfig

STATE = "state.pt"


class DDPEngine:
    """Every rank holds all weights, gradients and optimiser state; gradients are averaged over the ranks.

    Args:
        model: on its device.
        optimizer: over its trained parameters.
        schedule: stepped after every optimiser step.
        config: clipping, accumulation and bucket size are taken from it.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, config: TrainingConfig) -> None:
        self.module, self.optimizer, self.lr_scheduler, self.config = model, optimizer, schedule, config
        self.device = next(model.parameters()).device
        self.global_steps, self.passes, self.norm = 0, 0, torch.zeros(())
        trained = any(parameter.requires_grad for parameter in model.parameters())
        self.parallel: Any = (
            DistributedDataParallel(
                model,
                # The model has no buffer that training changes, and some weights (MOMENT's mask) are never used.
                broadcast_buffers=False,
                find_unused_parameters=True,
                bucket_cap_mb=int(max(1, config.bucket_mb)),
                gradient_as_bucket_view=True,
            )
            if trained and dist.get_world_size() > 1
            else model
        )

    def __call__(self, batch: Any) -> Any:
        """A forward pass; gradients are exchanged after the last one of a step."""
        last = self.is_gradient_accumulation_boundary()
        alone = self.parallel is self.module or last
        with contextlib.nullcontext() if alone else self.parallel.no_sync():
            return self.parallel(batch)

    def train(self, mode: bool = True) -> None:
        """Training mode."""
        self.parallel.train(mode)

    def eval(self) -> None:
        """Evaluation mode."""
        self.parallel.eval()

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the current pass is the last one of an optimiser step."""
        return self.passes + 1 == self.config.accumulation

    def backward(self, loss: Tensor) -> None:
        """Add this pass's share of the mean over the passes."""
        (loss / self.config.accumulation).backward()

    def step(self) -> None:
        """Count a pass, and after the last one clip, step and clear."""
        self.passes += 1
        if self.passes < self.config.accumulation:
            return
        self.norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        self.global_steps, self.passes = self.global_steps + 1, 0

    def get_lr(self) -> list[float]:
        """Learning rate of each parameter group."""
        return [float(rate) for rate in self.lr_scheduler.get_last_lr()]

    def get_global_grad_norm(self) -> Tensor:
        """Norm of the last gradient before it was clipped."""
        return self.norm

    def zero_optimization_stage(self) -> int:
        """Nothing is sharded."""
        return 0

    def save_checkpoint(self, folder: str, tag: str) -> None:
        """Rank 0 writes; all ranks are alike."""
        if dist.get_rank():
            return
        (Path(folder) / tag).mkdir(parents=True)
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_scheduler.state_dict(),
            "global_steps": self.global_steps,
        }
        torch.save(state, Path(folder) / tag / STATE)

    def load_checkpoint(self, folder: str, tag: str) -> tuple[str | None, None]:
        """What `save_checkpoint` wrote; the path is None where nothing is there."""
        path = Path(folder) / tag / STATE
        if not path.is_file():
            return None, None
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["schedule"])
        self.global_steps = state["global_steps"]
        return str(path), None

    def destroy(self) -> None:
        """Nothing outlives this object."""
