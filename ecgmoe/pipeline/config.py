"""How prepare and embed run. Free of Ray and torch, so that a command line can be built from it at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ecgmoe.config_tools import require
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.reader_options import ReaderOptions

ROW_GROUP_ROWS = 32
"""Rows per row group: records lie in the order of a hash of study_id, so a row group is a random sample of the data."""

PAPER_PATIENTS = 10_000
"""Of MIMIC-IV-ECG, in the paper's protocol (section 4)."""

Compression = Literal["zstd", "lz4", "none"]
DatasetName = Literal["simulated", "mimic-iv-ecg", "ptbxl", "ludb", "cinc2021", "wfdb"]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What prepare makes of a dataset.

    Attributes:
        quality: which records are excluded, and which leads are masked.
        reader: what recordings may leave open.
        index: labels and splits, whose change rewrites labels.parquet alone, and which records there are, whose change
            needs another folder.
        shard_rows: records per shard; None takes 1/16 of the dataset, between 32 and 2,048 (about 110 MB).
        compression: of the waveforms. lz4 takes a third more space than zstd and is read in a third of the time, for a
            training that waits for data on disks that are fast enough; none takes the 120 kB per record that the same
            ECG takes in WFDB files of 16 bits. Shards that are there keep theirs.
    """

    quality: QualityPolicy = field(default_factory=QualityPolicy)
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    index: IndexOptions = field(default_factory=IndexOptions)
    shard_rows: int | None = None
    compression: Compression = "zstd"

    def __post_init__(self) -> None:
        require(
            self.shard_rows is None or self.shard_rows >= 1, f"shard_rows must be at least 1, got {self.shard_rows}"
        )


def paper() -> PrepareConfig:
    """The paper's protocol: 10,000 patients of MIMIC-IV-ECG (section 4; which ones, it does not say)."""
    return PrepareConfig(index=IndexOptions(patients=PAPER_PATIENTS))


PRESETS: dict[str, Callable[[], PrepareConfig]] = {"default": PrepareConfig, "paper": paper}


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How embed uses the machine; what it computes does not depend on it, but for rounding.

    Attributes:
        workers: actors; None takes one per GPU share, or one per CPU where there is no GPU.
        num_gpus: GPUs (or a fraction of one) per actor; None takes one where the cluster has any.
        batch_size: records per forward pass; None takes 32 on a CPU, and on a GPU the size that a short search finds.
    """

    workers: int | None = None
    num_gpus: float | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 1, f"workers must be at least 1, got {self.workers}")
        require(
            self.num_gpus is None or 0 <= self.num_gpus <= 1,
            f"num_gpus is the share of one GPU that an actor takes, 0 to 1, got {self.num_gpus}",
        )
        require(
            self.batch_size is None or self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}"
        )
