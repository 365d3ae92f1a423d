"""How long each rank waits for data, on which part of reading that is spent, and what helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ecgmoe.training.collectives import sum_over_ranks
from ecgmoe.training.loader import ASSEMBLING, CHANGING, BatchReader

TOLERATED = 0.05
"""Share of a step's time."""
LEAST_S = 0.5
"""Less waiting than this in an interval of logging is worth nobody's time."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """One rank in one interval of logging.

    Attributes:
        rank: of it.
        seconds: that its steps waited for batches.
        of: seconds that its steps took with that.
        reading: seconds of its threads that read ahead by stage.
    """

    rank: int
    seconds: float
    of: float
    reading: dict[str, float]

    @property
    def share(self) -> float:
        """Waiting of all, 0 to 1."""
        return self.seconds / self.of if self.of else 0.0


def waits_of_ranks(
    seconds: float, of: float, reading: Mapping[str, float], stages: Sequence[str], device: torch.device
) -> list[Wait]:
    """What each rank tells of itself, on every rank; every rank must call it.

    Args:
        seconds: that this rank waited.
        of: seconds of its steps.
        reading: seconds of its threads that read ahead by stage.
        stages: the same on every rank.
        device: of the engine.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    told = torch.zeros(world, 2 + len(stages), dtype=torch.float32, device=device)
    told[rank] = torch.tensor([seconds, of, *(reading.get(stage, 0.0) for stage in stages)], device=device)
    rows = sum_over_ranks(told).tolist()
    return [
        Wait(rank=rank, seconds=row[0], of=row[1], reading=dict(zip(stages, row[2:], strict=True)))
        for rank, row in enumerate(rows)
    ]


class WaitWarning:
    """Says once in an epoch that steps wait for data, and what to do.

    Args:
        reader: whose time it is.
        read_ahead: global batches.
    """

    def __init__(self, reader: BatchReader, read_ahead: int) -> None:
        self.reader, self.read_ahead = reader, read_ahead
        # Nothing was read ahead of the first steps after a start.
        self.cold = True
        self.said_in: int | None = None

    def check(self, epoch: int, wait: Wait) -> None:
        """Print a line where this wait is too much of its interval."""
        cold, self.cold = self.cold, False
        if cold or self.said_in == epoch or wait.share <= TOLERATED or wait.seconds < LEAST_S:
            return
        self.said_in = epoch
        stage, spent = max(wait.reading.items(), key=lambda each: each[1])
        total = sum(wait.reading.values())
        print(
            f"WAITING FOR DATA: {wait.share:.0%} of the time of a step on rank {wait.rank}, most of it {stage} "
            f"({spent:.1f} of {total:.1f} s of its reading): {self.remedy(stage)}",
            flush=True,
        )

    def remedy(self, stage: str) -> str:
        """What helps where this stage takes longest."""
        deeper = f"--training.read-ahead above {self.read_ahead} where it comes in bursts"
        if stage in (ASSEMBLING, CHANGING):
            less = "; less of --training.augmentation" if stage == CHANGING else ""
            return f"give each worker a second CPU core for the threads that read ahead; {deeper}{less}"
        folder = self.reader.data.store.root
        kept = "; smaller features (a backbone live instead of cached)" if "features" in stage else ""
        return f"a copy of {folder} on a local or faster disk; {deeper}{kept}"
