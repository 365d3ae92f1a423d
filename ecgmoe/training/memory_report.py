"""The memory that a training will take: said and logged before its first step, with a warning where it is not there."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch import nn

from ecgmoe.model.batch import ECGBatch
from ecgmoe.readable import size
from ecgmoe.training.activations import measure_forward
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.memory import ZERO_STAGES, MemoryPlan, Sizes, Stage, predict
from ecgmoe.training.tracking import Tracker

PROBED = 2
"""Records on which the activations are counted."""


def sizes_of(model: nn.Module, training: TrainingConfig, probe: ECGBatch) -> Sizes:
    """What decides the memory of a rank; runs the probe through the model once."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.precision == "bf16"):
        forward = measure_forward(model, probe)
    parameters = list(model.parameters())
    return Sizes(
        parameters=sum(each.numel() for each in parameters),
        trained=sum(each.numel() for each in parameters if each.requires_grad),
        gathered=forward.read,
        workers=training.num_workers,
        moments=2 if training.optimizer == "adamw" else int(training.momentum > 0),
        records=training.global_batch // training.num_workers // training.accumulation,
        activation_bytes=forward.kept_bytes,
        accumulates=training.accumulation > 1,
        bucket=training.bucket_elements,
        averaged=training.weight_average > 0,
        gpu=training.use_gpu,
    )


def plan_memory(model: nn.Module, training: TrainingConfig, probe: ECGBatch) -> MemoryPlan:
    """Predict the memory of this rank and print it, with a warning where there is less.

    Args:
        model: whole and on the CPU, before an engine has wrapped it.
        training: of the run.
        probe: some records, to count activations on.
    """
    sizes = sizes_of(model, training, probe)
    stage: Stage = "ddp" if training.engine == "ddp" else training.zero_stage
    plan = predict(stage, sizes)
    print(describe(plan, "DDP" if stage == "ddp" else f"ZeRO {stage}"), flush=True)
    if training.use_gpu:
        there = torch.cuda.mem_get_info()[0]
    else:
        # What is free lies beside the weights, which are part of the plan and there already.
        held = sum(each.numel() * each.element_size() for each in model.parameters())
        there = free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size())) + held
    if warning := shortage(sizes, stage, there):
        print(warning, flush=True)
    return plan


def describe(plan: MemoryPlan, engine: str) -> str:
    """The plan in one line."""
    parts = asdict(plan)
    total = parts.pop("total")
    text = ", ".join(f"{size(value)} {name}" for name, value in parts.items())
    return f"memory per worker, predicted: {text}; {size(total)} in all at the peak of a step, at {engine}"


def shortage(sizes: Sizes, stage: Stage, there: int) -> str | None:
    """What to turn down where a worker has less than `there` bytes for what is predicted, else None."""
    plan = predict(stage, sizes)
    if plan.total <= there:
        return None
    ways = []
    if plan.activations > plan.total / 4:
        ways.append(f"micro-batches (of {sizes.records} records; a larger --training.accumulation makes smaller ones)")
        ways.append("activations (--backbones.N.gradient-checkpointing of a backbone that trains)")
    best = min(ZERO_STAGES, key=lambda other: predict(other, sizes).total)
    if predict(best, sizes).total < plan.total:
        ways.append(f"what each worker holds (--training.zero-stage {best}: {size(predict(best, sizes).total)})")
    ways.append("what trains (--backbones.N.mode lora, frozen or cached)")
    return (
        f"WARNING: a worker is predicted to need {size(plan.total)}, besides its libraries and the data read ahead, and "
        f"{size(max(0, there))} are free for it. Turn down {'; or '.join(ways)}"
    )


def free_memory() -> int:
    """Bytes that the processes of this machine, or of this container where it has a limit, can still take."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        cached = int((group / "memory.stat").read_text().split("inactive_file ")[1].split()[0])
    except (OSError, ValueError, IndexError):
        return free  # no limit, or no second version of control groups
    return min(free, limit - used + cached)


def log_memory(tracker: Tracker | None, plan: MemoryPlan | None, prefix: str = "") -> None:
    """Log the plan to MLflow, where this rank has both; `prefix` begins the names."""
    if tracker and plan:
        metrics = {f"{prefix}memory/predicted_{name}_bytes": float(value) for name, value in asdict(plan).items()}
        tracker.log(metrics, 0, series=f"{prefix}memory/predicted_total_bytes")
