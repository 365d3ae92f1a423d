"""What a checkpoint holds, and how a run goes on from it.

    checkpoint/deepspeed/...      DeepSpeed's shards: weights, optimiser, schedule (each rank writes its own)
    checkpoint/rank-<r>.pt        random number state of a rank
    checkpoint/position.json      where the run stands (`Position`), with the layout it was written under
    checkpoint/model/             the model as `model.folder` writes it, ready to predict

Ray Train merges the folders of all ranks and shows a checkpoint only when it is whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from ecgmoe.training.config import TrainingConfig


@dataclass(kw_only=True)
class Position:
    """Where a run stands.

    Attributes:
        epoch: the epoch that comes next, or goes on.
        batch: global batches of that epoch already trained.
        step: optimiser steps since the start.
        best_score: best validation score so far, None before the first validation.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float | None = None


def layout(config: TrainingConfig) -> dict[str, Any]:
    """What DeepSpeed's shards depend on."""
    return {"num_workers": config.num_workers, "zero_stage": config.zero_stage}


def save(engine: deepspeed.DeepSpeedEngine, folder: Path, position: Position, config: TrainingConfig) -> None:
    """Write this rank's part; every rank must call it."""
    engine.save_checkpoint(str(folder / "deepspeed"), tag="state")
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    torch.save(state, folder / f"rank-{dist.get_rank()}.pt")
    if dist.get_rank() == 0:
        content = {"position": asdict(position), "layout": layout(config)}
        (folder / "position.json").write_text(json.dumps(content, indent=2))


def load(engine: deepspeed.DeepSpeedEngine, folder: Path, config: TrainingConfig) -> Position:
    """Restore weights, optimiser, schedule and random numbers of this rank.

    Raises:
        ValueError: the checkpoint was written under another number of workers or ZeRO stage.
        RuntimeError: its files are not whole.
    """
    content = json.loads((folder / "position.json").read_text())
    if content["layout"] != layout(config):
        raise ValueError(
            f"the checkpoint was written with {content['layout']}, this run has {layout(config)}: use the same layout"
        )
    path, _ = engine.load_checkpoint(str(folder / "deepspeed"), tag="state")
    if path is None:
        raise RuntimeError(f"DeepSpeed found no checkpoint in {folder}")
    state = torch.load(folder / f"rank-{dist.get_rank()}.pt", weights_only=True)
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    return Position(**content["position"])


def full_state(engine: deepspeed.DeepSpeedEngine) -> dict[str, Tensor]:
    """All weights and buffers by name, on the CPU, whatever the ZeRO stage; every rank must call it."""
    module = engine.module
    sharded = engine.zero_optimization_stage() == 3
    state = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        # A parameter at a time: gathering all of them at once would undo what stage 3 saves.
        with deepspeed.zero.GatheredParameters([tensor], enabled=sharded and hasattr(tensor, "ds_id")):
            state[name] = tensor.detach().to("cpu", copy=True)
    return state
