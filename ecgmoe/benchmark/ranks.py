"""Ranks of one machine that nobody but a benchmark starts: torch's process group, before DeepSpeed is imported."""

from __future__ import annotations

import os


def join_group(rank: int, world: int, folder: str, *, gpu: bool = False, device: int | None = None) -> None:
    """Make this process one of `world` ranks, on one thread, or on the GPU of its number.

    Args:
        rank: of this process.
        world: processes, all of which have to call this before any of them goes on.
        folder: an empty one, the same for all of them, in which they find each other.
        gpu: NCCL on GPUs instead of gloo on CPUs.
        device: number of its GPU, where it is not that of its rank.
    """
    device = rank if device is None else device
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(device), "WORLD_SIZE": str(world)}
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if gpu else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
