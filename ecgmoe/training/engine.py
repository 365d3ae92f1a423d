"""The engine of one rank, DeepSpeed or plain DDP, and the collectives that the loss needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ecgmoe.backbones.base import Backbone
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.ddp import DDPEngine
from ecgmoe.training.optimizer import make_optimizer, make_schedule


def deepspeed_config(config: TrainingConfig) -> dict[str, Any]:
    """DeepSpeed's own configuration for this run."""
    bucket = config.bucket_elements
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        # Overlap needs streams, which a CPU has not.
        "overlap_comm": config.use_gpu,
        "contiguous_gradients": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if config.zero_stage == 3:
        zero |= {"stage3_param_persistence_threshold": 10_000, "stage3_prefetch_bucket_size": bucket}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": config.use_gpu}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": config.use_gpu}
    return {
        "train_micro_batch_size_per_gpu": config.global_batch // config.num_workers // config.accumulation,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
    }


def initialise(model: nn.Module, config: TrainingConfig, total_steps: int) -> Any:
    """A DeepSpeedEngine or a `DDPEngine` around the model, with optimiser and schedule. The process group must exist."""
    if config.engine == "ddp":
        device = torch.device("cuda", torch.cuda.current_device()) if config.use_gpu else torch.device("cpu")
        optimizer = make_optimizer(model.to(device).parameters(), config)
        schedule = make_schedule(optimizer, config, max(1, total_steps))
        return DDPEngine(model, optimizer, schedule, config)
    if config.zero_stage == 3:
        kinds = {kind for module in model.modules() if isinstance(module, Backbone) for kind in module.called_by_data}
        if kinds:
            deepspeed.utils.set_z3_leaf_modules(model, list(kinds))
    optimizer = make_optimizer(model.parameters(), config)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=make_schedule(optimizer, config, max(1, total_steps)),
        config=deepspeed_config(config),
        dist_init_required=False,
    )
    return engine


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
