"""How many records a GPU encodes at once: the fastest size that is sure to fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ecgmoe.ecg.record import N_LEADS, N_SAMPLES

CPU_BATCH = 32
FIRST, LARGEST = 4, 4096
WORTH_IT = 1.05
"""A size that is twice as large stays only where it is this much faster."""
SAFE_SHARE = 0.8
"""Of the memory; the rest is for what grows in steps (workspaces, fragmentation)."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One batch size, measured.

    Attributes:
        seconds: per record.
        bytes: of device memory at the peak, weights included.
    """

    seconds: float
    bytes: int


def search(measure: Callable[[int], Trial], memory: int) -> int:
    """Double the batch while that pays, and never try a size that might not fit.

    Memory is weights and what grows with the batch, so twice the batch takes at most twice the peak.

    Args:
        measure: runs a batch of so many records.
        memory: bytes that the actor may use.

    Raises:
        ValueError: not even the smallest batch fits.
    """
    size, best = FIRST, measure(FIRST)
    if best.bytes > SAFE_SHARE * memory:
        raise ValueError(
            f"{FIRST} records at once take {best.bytes / 1e9:.1f} GB and the actor may use {memory / 1e9:.1f} GB: give it a "
            "larger share with --embed.num-gpus, or choose smaller backbones"
        )
    while 2 * size <= LARGEST and 2 * best.bytes <= SAFE_SHARE * memory:
        trial = measure(2 * size)
        if best.seconds / trial.seconds < WORTH_IT:
            break
        size, best = 2 * size, trial
    return size


def find_batch_size(networks: Sequence[nn.Module], device: torch.device, share: float, precision: str) -> int:
    """The batch size for these backbones on this GPU, of which the process has `share`."""
    memory = int(torch.cuda.get_device_properties(device).total_memory * share)

    def measure(size: int) -> Trial:
        # Noise: an all-zero signal would make TimesNet fold every record alike.
        x = torch.randn(size, N_LEADS, N_SAMPLES, device=device)
        torch.cuda.reset_peak_memory_stats(device)
        seconds = []
        for _ in range(3):
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                for network in networks:
                    network(x)
            torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
        # The first pass chooses kernels.
        return Trial(seconds=min(seconds[1:]) / size, bytes=torch.cuda.max_memory_reserved(device))

    return search(measure, memory)
