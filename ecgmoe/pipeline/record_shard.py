"""One shard of records: reading its studies, writing it, and what its Parquet metadata says about it.

A shard carries the key of the plan that it belongs to, its own exclusions and a digest of its content, so that a shard of
another configuration is never taken for one of this, and the digest of a whole dataset needs no waveform.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgmoe.ecg.beats import median_rr_ms
from ecgmoe.ecg.quality_policy import QualityFault, QualityPolicy
from ecgmoe.ecg.read import UsableRecord, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault
from ecgmoe.pipeline.config import ROW_GROUP_ROWS, Compression
from ecgmoe.pipeline.nodes import require_here
from ecgmoe.pipeline.schema import RECORD_SCHEMA, shard_name, signals_to_array
from ecgmoe.pipeline.store import Store

_METADATA = b"ecgmoe"

Exclusion = tuple[str, str, str]
"""path, stage and reason: a row of exclusions.parquet."""


class PrepareShard:
    """Writes one shard: the block holds shard, study_id and path of its studies."""

    def __init__(
        self,
        root: str,
        out: str,
        policy: QualityPolicy,
        reader: ReaderOptions,
        key: str,
        compression: Compression = "zstd",
    ) -> None:
        self.root, self.out, self.policy, self.reader, self.key = root.rstrip("/"), out, policy, reader, key
        self.compression = compression

    def __call__(self, block: pa.Table) -> pa.Table:
        require_here(self.root)
        require_here(self.out, "plan.json")
        shard = block["shard"][0].as_py()
        exclusions: list[Exclusion] = []
        with (
            Store(self.out).writing(f"records/{shard_name(shard)}") as file,
            ShardWriter(file, self.key, self.compression) as writer,
        ):
            for study_id, path in zip(block["study_id"].to_pylist(), block["path"].to_pylist(), strict=True):
                try:
                    writer.add(study_id, read_usable(f"{self.root}/{path}", self.reader, self.policy))
                except RecordFault as fault:
                    exclusions.append((path, "quality" if isinstance(fault, QualityFault) else "read", str(fault)))
            records = writer.close(exclusions)
        return pa.table({"shard": [shard], "records": [records], "excluded": [len(exclusions)]})


class ShardWriter:
    """Writes records in row groups of `ROW_GROUP_ROWS`, holding no more than one in memory."""

    def __init__(self, file: IO[bytes], key: str, compression: Compression = "zstd") -> None:
        self.writer = pq.ParquetWriter(file, RECORD_SCHEMA, compression=compression, use_dictionary=False)
        self.key, self.digest, self.written = key, hashlib.sha256(), 0
        self.rows: list[tuple[int, UsableRecord]] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        # Of a file that is given up, Arrow would otherwise complain that it cannot write its end.
        self.writer.is_open = False

    def add(self, study_id: int, record: UsableRecord) -> None:
        """Append a record."""
        self.rows.append((study_id, record))
        if len(self.rows) == ROW_GROUP_ROWS:
            self._write()

    def close(self, exclusions: Sequence[Exclusion]) -> int:
        """Write what is left and the metadata; returns the number of records."""
        if self.rows:
            self._write()
        metadata = {"key": self.key, "exclusions": exclusions, "content_sha256": self.digest.hexdigest()}
        self.writer.add_key_value_metadata({_METADATA: json.dumps(metadata).encode()})
        self.writer.close()
        return self.written

    def _write(self) -> None:
        table = records_table(self.rows)
        for column in table.columns:
            for buffer in column.chunk(0).buffers():
                if buffer is not None:
                    self.digest.update(buffer)
        self.writer.write_table(table)
        self.written += len(self.rows)
        self.rows = []


def records_table(rows: Sequence[tuple[int, UsableRecord]]) -> pa.Table:
    """(study_id, record) pairs as a table of `RECORD_SCHEMA`."""
    qualities = [asdict(record.quality) for _, record in rows]
    columns: dict[str, Any] = {
        "study_id": [study_id for study_id, _ in rows],
        "signal": signals_to_array([record.signal for _, record in rows]),
        "r_peaks": [record.r_peaks for _, record in rows],
        "rr_ms": [median_rr_ms(record.r_peaks) for _, record in rows],
        **{f"quality_{name}": [quality[name] for quality in qualities] for name in qualities[0]},
        "quality_few_beats": [record.few_beats for _, record in rows],
    }
    arrays = [
        columns[field.name] if field.name == "signal" else pa.array(columns[field.name], type=field.type)
        for field in RECORD_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=RECORD_SCHEMA)


def shard_metadata(file: pq.ParquetFile) -> dict[str, Any]:
    """key, exclusions and content_sha256 of a shard; empty where the file was not written by `ShardWriter`."""
    return json.loads((file.metadata.metadata or {}).get(_METADATA, b"{}"))


def stored_columns(store: Store, shard: int, columns: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    """Some columns of a shard, with its number and the rows' numbers beside them, and its metadata."""
    with store.parquet(f"records/{shard_name(shard)}") as file:
        table = file.read(columns=list(columns))
        metadata = shard_metadata(file)
    table = table.append_column("shard", pa.array(np.full(len(table), shard, dtype=np.int32)))
    return table.append_column("row", pa.array(np.arange(len(table), dtype=np.int32))), metadata
