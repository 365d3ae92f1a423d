"""The optimiser and its schedule, by configuration."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from ecgmoe.training.config import TrainingConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> Optimizer:
    """For the parameters that require a gradient; frozen ones cost no state. Vectors (biases, norms) do not decay."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0)
    return AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.95), eps=config.epsilon)


def make_schedule(optimizer: Optimizer, config: TrainingConfig, total_steps: int) -> LRScheduler:
    """Warm-up over `config.warmup` of all steps, then what `config.schedule` says."""
    if config.schedule == "constant":
        rising = max(1, round(config.warmup * total_steps))
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / rising))
    return OneCycleLR(
        optimizer,
        max_lr=config.learning_rate,
        total_steps=total_steps + 1,
        # Its warm-up ends one step early, and one that ends at step 0 is divided by: at least two steps.
        pct_start=min(1.0, max(config.warmup, 2 / (total_steps + 1))),
        cycle_momentum=False,
    )
