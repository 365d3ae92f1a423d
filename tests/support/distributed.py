"""Run a function on several gloo ranks, each a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes


def run_distributed(function: Callable[..., Any], world: int, *arguments: Any, log: Path | None = None) -> list[Any]:
    """Call `function(*arguments)` on `world` ranks; returns what each returned, in rank order.

    What they print goes to `log` where it is given.

    What travels back must be loadable with `weights_only=True`: numbers, strings, tensors, and lists and dicts of them.
    """
    # Ranks are forks of a process that has the packages in memory and does nothing else: reading them takes 7 s of each rank.
    get_context("forkserver").set_forkserver_preload(["ecgmoe.training.worker", "deepspeed"])
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_rank, (function, world, folder, arguments, log), nprocs=world, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _rank(
    rank: int, function: Callable[..., Any], world: int, folder: str, arguments: tuple[Any, ...], log: Path | None
) -> None:
    if log:
        # Opened by each rank for itself: appending keeps lines whole.
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(function(*arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
