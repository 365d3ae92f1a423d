"""DeepSpeed: the engine of one rank, and the collectives that the loss needs."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ecgmoe.backbones.base import Backbone
from ecgmoe.training.config import TrainingConfig

BUCKET_ELEMENTS = 50_000_000


def deepspeed_config(config: TrainingConfig) -> dict[str, Any]:
    """DeepSpeed's own configuration for this run."""
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        # Overlap needs streams, which a CPU has not.
        "overlap_comm": config.use_gpu,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if config.zero_stage == 3:
        zero |= {"stage3_param_persistence_threshold": 10_000, "stage3_prefetch_bucket_size": BUCKET_ELEMENTS}
    return {
        "train_micro_batch_size_per_gpu": config.global_batch // config.num_workers // config.accumulation,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
    }


def initialise(model: nn.Module, config: TrainingConfig, total_steps: int) -> deepspeed.DeepSpeedEngine:
    """Wrap the model: AdamW (no decay on vectors), one-cycle schedule, ZeRO at the configured stage.

    Only parameters that require a gradient reach the optimiser. The process group must exist.
    """
    if config.zero_stage == 3:
        kinds = {kind for module in model.modules() if isinstance(module, Backbone) for kind in module.called_by_data}
        if kinds:
            deepspeed.utils.set_z3_leaf_modules(model, list(kinds))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.learning_rate,
        total_steps=total_steps + 1,
        # Its warm-up ends one step early, and one that ends at step 0 is divided by: at least two steps.
        pct_start=min(1.0, max(config.warmup, 2 / (total_steps + 1))),
        cycle_momentum=False,
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=deepspeed_config(config),
        dist_init_required=False,
    )
    return engine


class _GatherRows(torch.autograd.Function):
    """All ranks' rows in rank order; backward sums what every rank's loss says of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.rows, ctx.rank = len(local), dist.get_rank()
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.rank * ctx.rows : (ctx.rank + 1) * ctx.rows]


def gather_rows(local: Tensor) -> Tensor:
    """Rows of all ranks in rank order, with gradients; every rank must bring as many."""
    return _GatherRows.apply(local) if dist.get_world_size() > 1 else local


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
