"""The engine of one rank, DeepSpeed or plain DDP."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from deepspeed.runtime.utils import clip_grad_norm_
from torch import nn

from ecgmoe.backbones.base import Backbone
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.ddp import DDPEngine
from ecgmoe.training.optimizer import make_optimizer, make_schedule

LINEAR = nn.functional.linear
"""Torch's own."""


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
    if config.zero_stage == 0:
        _keep_norm(engine)
    return engine


def destroy(engine: Any) -> None:
    """Let the engine go. ZeRO 3 replaces `torch.nn.functional.linear` for the whole process, by one that adds the bias after
    the product and so rounds otherwise on some processors: whatever trains next in the process gets torch's own again."""
    engine.destroy()
    nn.functional.linear = LINEAR


def _keep_norm(engine: Any) -> None:
    """At stage 0 DeepSpeed clips gradients and forgets their norm, which alone tells that they are not finite."""

    def clip() -> None:
        engine._global_grad_norm = clip_grad_norm_(
            parameters=engine.module.parameters(), max_norm=engine.gradient_clipping(), mpu=engine.mpu
        )

    engine.clip_fp32_gradients = clip
