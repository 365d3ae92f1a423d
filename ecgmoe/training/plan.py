"""The epoch plan: which record is in which global batch, a pure function of (labels, seed, epoch).

It is the only source of order. It knows nothing of workers: a worker takes its share of the slots of each global batch,
so any number of workers that divides the slots trains on the same batches, and (epoch, batch) says where to resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """The records of one optimiser step, and how they are cut over the ranks.

    Attributes:
        rows: int64 (B,), rows of the labels table in global order.
        counts: how many of them each rank has, the first rank's first.
    """

    rows: npt.NDArray[np.int64]
    counts: tuple[int, ...]

    def first(self, rank: int) -> int:
        """Position in the global batch of a rank's first record."""
        return sum(self.counts[:rank])

    def share(self, rank: int) -> npt.NDArray[np.int64]:
        """The rows that one rank reads, in global order."""
        start = self.first(rank)
        return self.rows[start : start + self.counts[rank]]


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """One epoch.

    Attributes:
        rows: int64 (batches, slots, records per slot and batch), rows of the labels table.
        dropped: records of the last short global batch, left out of this epoch.
    """

    rows: npt.NDArray[np.int64]
    dropped: int

    def batch(self, batch: int, workers: int) -> GlobalBatch:
        """A global batch, its slots dealt out to the workers in order; where they do not divide, some have one more."""
        slots, per_slot = self.rows.shape[1:]
        bounds = [rank * slots // workers * per_slot for rank in range(workers + 1)]
        counts = tuple(stop - start for start, stop in pairwise(bounds))
        return GlobalBatch(rows=self.rows[batch].reshape(-1), counts=counts)


def epoch_plan(
    rows: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], *, global_batch: int, slots: int, seed: int, epoch: int
) -> EpochPlan:
    """Shuffle row groups and the records within them, lay them end to end, cut into equal slots.

    Each slot streams through its own row groups, so a worker holds one row group per slot and reads each about once.

    Args:
        rows: rows of the labels table that belong to the training split.
        groups: row group of each of them, as `pipeline.prepared.row_groups` numbers them.
        global_batch: records per optimiser step, a multiple of `slots`.
        slots: streams.
        seed: of the run.
        epoch: from 0.

    Raises:
        ValueError: fewer records than one global batch.
    """
    if len(rows) < global_batch:
        raise ValueError(
            f"the training split has {len(rows)} records, fewer than one global batch of {global_batch}: lower "
            "--training.global-batch or prepare more records"
        )
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    _, group = np.unique(groups, return_inverse=True)
    place_of_group = generator.permutation(group.max() + 1)
    order = np.lexsort((generator.random(len(rows)), place_of_group[group]))
    batches, per_slot = len(rows) // global_batch, global_batch // slots
    # Slot s is one contiguous stretch of the shuffled sequence; np.split would spread the remainder over the slots.
    stretch = len(rows) // slots
    streams = rows[order][: stretch * slots].reshape(slots, stretch)[:, : batches * per_slot]
    return EpochPlan(
        rows=streams.reshape(slots, batches, per_slot).transpose(1, 0, 2), dropped=len(rows) - batches * global_batch
    )
