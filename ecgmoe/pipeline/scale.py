"""What preparing so many ECGs takes of disk and of the driver's memory, before it starts.

The figures per record were measured with `jobs/benchmark.py` (stages index and scale) and on PTB-XL; README.md has them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ecgmoe.pipeline.config import Compression
from ecgmoe.pipeline.shards import default_shard_rows
from ecgmoe.pipeline.store import Store
from ecgmoe.readable import size

RAW_BYTES = 121_500
"""A WFDB record of format 16: 12 x 5000 x 2 bytes and a header."""
RECORD_BYTES: dict[Compression, int] = {"zstd": 53_000, "lz4": 71_500, "none": 120_200}
"""Of a shard, per real record of 10 s."""
LABEL_BYTES = 40
INDEX_BYTES = 140
OBJECT_STORE_BYTES = 56
"""study_id, path and shard of every study: all that Ray moves."""
DRIVER_BASE_BYTES, DRIVER_BYTES = 500_000_000, 1_100
"""The driver's peak: interpreter, Ray and plots, and what grows with every study (tables of the index and their joins)."""


@dataclass(frozen=True, kw_only=True)
class ScalePlan:
    """Sizes in bytes."""

    studies: int
    shards: int
    raw: int
    records: int
    labels: int
    index: int
    object_store: int
    driver: int


def scale_plan(studies: int, shard_rows: int | None = None) -> ScalePlan:
    """The plan for so many studies; `shard_rows` as in `PrepareConfig`."""
    return ScalePlan(
        studies=studies,
        shards=-(-studies // (shard_rows or default_shard_rows(studies))),
        raw=studies * RAW_BYTES,
        records=studies * RECORD_BYTES["zstd"],
        labels=studies * LABEL_BYTES,
        index=studies * INDEX_BYTES,
        object_store=studies * OBJECT_STORE_BYTES,
        driver=DRIVER_BASE_BYTES + studies * DRIVER_BYTES,
    )


def announce(store: Store, studies: int, shards: int, compression: Compression) -> None:
    """Say what is about to be written, and warn where the disk will not hold it; prepare would stop there and go on later."""
    needed = studies * RECORD_BYTES[compression]
    line = f"prepare: {studies:,} studies to read in {shards:,} shards, about {size(needed)} to write"
    if store.local:
        folder = Path(store.root)
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        line += f", {size(free)} free"
        if free < needed:
            line += ": NOT ENOUGH, it will stop when the disk is full"
    print(line, flush=True)
