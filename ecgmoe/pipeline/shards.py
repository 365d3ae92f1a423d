"""Which study goes to which shard: a pure function of the study ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgmoe.pipeline.config import ROW_GROUP_ROWS


def mix64(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """A fixed 64-bit hash of integers (the finaliser of splitmix64), the same on every machine."""
    mixed = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def default_shard_rows(records: int, most: int = 2048) -> int:
    """About sixteen shards for a small dataset, `most` records (2,048 are about 110 MB) for a large one; whole row groups."""
    groups = -(-records // (16 * ROW_GROUP_ROWS))
    return min(most, max(1, groups) * ROW_GROUP_ROWS)


def plan_shards(index: pa.Table, shard_rows: int) -> list[pa.Table]:
    """Cut the index into shards in the order of a hash of study_id, so that a row group is a random sample.

    Returns:
        One table per shard with the columns shard, study_id and path.
    """
    order = np.argsort(mix64(index["study_id"].to_numpy()), kind="stable")
    studies = index.select(["study_id", "path"]).take(pa.array(order))
    return [
        studies.slice(start, shard_rows).append_column(
            "shard", pa.array(np.full(min(shard_rows, len(studies) - start), shard, dtype=np.int32))
        )
        for shard, start in enumerate(range(0, len(studies), shard_rows))
    ]
