"""Reading a prepared folder: labels in memory, signals and features a row group at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.pipeline.config import ROW_GROUP_ROWS
from ecgmoe.pipeline.schema import LABEL_SCHEMA, SCHEMA_VERSION, features_of, r_peaks_of, shard_name, signals_of
from ecgmoe.pipeline.store import StorageError, Store
from ecgmoe.stopwatch import Stopwatch

EVERY_SPLIT = "all"
"""Stands for every record of a folder, whatever its split."""


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """One row group of a shard.

    Attributes:
        study_id: (n,) int64.
        signal: (n, 12, 5000) int16 microvolt.
        r_peaks: n arrays of samples.
        rr_ms: (n,) median of the detected RR, NaN where there is none.
        features: by cached backbone (n, tokens, width) float16 or float32.
    """

    study_id: npt.NDArray[np.int64]
    signal: npt.NDArray[np.int16]
    r_peaks: list[npt.NDArray[np.int32]]
    rr_ms: npt.NDArray[np.float32]
    features: dict[str, npt.NDArray[np.floating]]


class PreparedData:
    """A folder that prepare (and embed) finished.

    Args:
        root: the folder or URL.
        features: cached backbone name to feature key, as `embed` returned it.

    Attributes:
        store: the folder, with labels and manifest.
        records: where records and features lie, the same folder or, of a fold (`pipeline/folds.py`), another.

    Raises:
        StorageError: the folder is not there, not finished, or of another schema version.
    """

    def __init__(self, root: str, features: Mapping[str, str] | None = None) -> None:
        self.store = Store(root)
        if not self.store.exists("manifest.json"):
            raise StorageError(
                f"{self.store.root} holds no prepared data (no manifest.json): run jobs/prepare.py --out {root}"
            )
        self.manifest = self.store.read_json("manifest.json")
        if self.manifest["schema_version"] != SCHEMA_VERSION:
            raise StorageError(
                f"{self.store.root} has schema version {self.manifest['schema_version']}, this version reads "
                f"{SCHEMA_VERSION}: prepare it again into another folder"
            )
        self.features = dict(features or {})
        # A fold has labels of its own and the records of the folder that it was cut from.
        self.records = Store(self.manifest["records_from"]) if "records_from" in self.manifest else self.store

    def labels(self) -> pa.Table:
        """labels.parquet, in the order of the shards."""
        with self.store.parquet("labels.parquet") as file:
            return file.read().select(LABEL_SCHEMA.names)

    def row_group(self, shard: int, group: int, clock: Stopwatch | None = None) -> RowGroup:
        """Read one row group of records and of every cached backbone's features, and check that they belong together.

        Args:
            shard: its number.
            group: number of the row group in it.
            clock: gets the seconds of reading and decoding signals, and each backbone's features.

        Raises:
            StorageError: a shard is missing or torn, or the features are those of other records.
        """
        name, clock = shard_name(shard), clock or Stopwatch()
        with clock.on("reading signals"):
            records = self._read(f"records/{name}", group, ["study_id", "signal", "r_peaks", "rr_ms"])
        study_id = records["study_id"].to_numpy()
        features = {}
        for backbone, key in self.features.items():
            path = f"features/{key}/{name}"
            with clock.on(f"reading features of {backbone}"):
                table = self._read(path, group, ["study_id", "features"])
            if not np.array_equal(table["study_id"].to_numpy(), study_id):
                raise StorageError(
                    f"{self.records.path(path)} holds features of other records: delete it and run jobs/embed.py"
                )
            features[backbone] = features_of(table["features"], table.schema.field("features"))
        return RowGroup(
            study_id=study_id,
            signal=signals_of(records["signal"]),
            r_peaks=r_peaks_of(records["r_peaks"]),
            rr_ms=records["rr_ms"].to_numpy().astype(np.float32),
            features=features,
        )

    def _read(self, path: str, group: int, columns: list[str]) -> pa.Table:
        with self.records.parquet(path) as file:
            # One column has nearly all of the bytes: Arrow's threads would only wait for each other.
            return file.read_row_group(group, columns=columns, use_threads=False)


def row_groups(labels: pa.Table) -> npt.NDArray[np.int64]:
    """For every row of labels: one number that names its row group (shard and group in one integer)."""
    shard = labels["shard"].to_numpy().astype(np.int64)
    return (shard << 32) + labels["row"].to_numpy() // ROW_GROUP_ROWS


def split_group(group: int) -> tuple[int, int]:
    """(shard, group) of a number made by `row_groups`."""
    return group >> 32, group & 0xFFFFFFFF


def split_rows(labels: pa.Table, split: str) -> npt.NDArray[np.int64]:
    """Rows of the labels table that belong to a split, or all of them for `EVERY_SPLIT`, in the order of the shards."""
    if split == EVERY_SPLIT:
        return np.arange(len(labels), dtype=np.int64)
    return np.flatnonzero(pc.equal(labels["split"], split).to_numpy(zero_copy_only=False)).astype(np.int64)
