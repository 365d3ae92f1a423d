"""What a checkpoint holds, and how a run goes on from it.

    checkpoint/deepspeed/...          DeepSpeed's shards: weights, optimiser, schedule (each rank writes its own)
    checkpoint/portable.safetensors   the same by name, for another number of workers or ZeRO stage (`portable`)
    checkpoint/rank-<r>.pt            of a rank: random number state, and sums since the last logged step
    checkpoint/position.json          where the run stands (`Position`), with the layout it was written under
    checkpoint/model/                 the model as `model.folder` writes it, ready to predict

Under the same layout a run goes on bit for bit, dropout included. Under another one weights, optimiser, schedule and
position are the same, but a rank's random numbers belong to that many ranks: they begin anew from (seed, rank, step), so
that dropout draws other masks, and without dropout the rest is equal up to the rounding of sums in another order.

`checkpoint_store` brings the files of all ranks together, and shows a checkpoint only when it is whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ecgmoe.training import portable
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.progress import Interval
from ecgmoe.training.random_state import random_state, set_random_state


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
    """What the engine's own files depend on."""
    return {
        "engine": config.engine,
        "num_workers": dist.get_world_size(),
        "zero_stage": config.zero_stage,
        "offload": config.offload,
    }


def save(
    engine: deepspeed.DeepSpeedEngine, folder: Path, position: Position, config: TrainingConfig, interval: Interval
) -> None:
    """Write this rank's part; every rank must call it."""
    engine.save_checkpoint(str(folder / "deepspeed"), tag="state")
    portable.save(engine, folder)
    state: dict[str, Any] = {"random": random_state(), "interval": interval}
    torch.save(state, folder / f"rank-{dist.get_rank()}.pt")
    if dist.get_rank() == 0:
        content = {"position": asdict(position), "layout": layout(config)}
        (folder / "position.json").write_text(json.dumps(content, indent=2))


def load(engine: deepspeed.DeepSpeedEngine, folder: Path, config: TrainingConfig) -> tuple[Position, Interval]:
    """Restore weights, optimiser, schedule and random numbers of this rank.

    Returns:
        Where the run stands, and what this rank had summed up since the last logged step.

    Raises:
        RuntimeError: its files are not whole, or they are of another model.
    """
    content = json.loads((folder / "position.json").read_text())
    position = Position(**content["position"])
    if content["layout"] == layout(config):
        interval = _load_shards(engine, folder)
    else:
        portable.load(engine, folder)
        engine.global_steps = position.step
        _seed_anew(config.seed, position.step)
        interval = _interval_of_all(folder, content["layout"]["num_workers"])
    if engine.zero_optimization_stage() == 3:
        # As in a new engine, every parameter is sharded when the first step comes. DeepSpeed notes which module takes one
        # from another (a ParameterDict) by gathering it there in that step; a later first time breaks its trace.
        engine.optimizer.checkpoint_event_prologue()
    return position, interval


def _load_shards(engine: deepspeed.DeepSpeedEngine, folder: Path) -> Interval:
    """What DeepSpeed and this rank wrote under this very layout."""
    path, _ = engine.load_checkpoint(str(folder / "deepspeed"), tag="state")
    if path is None:
        raise RuntimeError(f"DeepSpeed found no checkpoint in {folder}")
    state = _rank_state(folder, dist.get_rank())
    set_random_state(state["random"])
    return state["interval"]


def _seed_anew(seed: int, step: int) -> None:
    """Random numbers of this rank from this step on, where no earlier state can be kept."""
    sequence = np.random.SeedSequence([seed, dist.get_rank(), step])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)


def _rank_state(folder: Path, rank: int) -> dict[str, Any]:
    return torch.load(folder / f"rank-{rank}.pt", map_location="cpu", weights_only=True)


def _interval_of_all(folder: Path, workers: int) -> Interval:
    """The sums of all ranks that there were, on rank 0; the others begin at zero. Logging adds the ranks up."""
    intervals = [_rank_state(folder, rank)["interval"] for rank in range(workers)]
    weight = 1.0 if dist.get_rank() == 0 else 0.0
    first = intervals[0]
    return Interval(
        losses={name: weight * sum(each["losses"][name] for each in intervals) for name in first["losses"]},
        load=weight * sum(each["load"] for each in intervals),
        steps=first["steps"],
        waited=first["waited"],
        seconds=first["seconds"],
        dead=first["dead"],
    )


def full_state(engine: deepspeed.DeepSpeedEngine) -> dict[str, Tensor]:
    """All weights and buffers by name on the CPU of rank 0, whatever the ZeRO stage; every rank must call it.

    The other ranks get an empty dict: a machine with eight of them would otherwise hold eight copies.
    """
    sharded = engine.zero_optimization_stage() == 3
    state = {}
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        # A parameter at a time: gathering all of them at once would undo what stage 3 saves.
        with deepspeed.zero.GatheredParameters([tensor], enabled=sharded and hasattr(tensor, "ds_id")):
            if dist.get_rank() == 0:
                state[name] = tensor.detach().to("cpu", copy=True)
    return state
