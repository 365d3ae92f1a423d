"""The three operators of embed, for one shard each: read the records, encode them, write their features.

With GPUs, reading and writing (decompression, Parquet, the disk) are operators of their own, so that a GPU does not wait for
them. Where the same cores do everything there is nothing to wait for, and one operator saves the way between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgmoe.allocator import keep_freed_memory
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.registry import build
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.pipeline.config import ROW_GROUP_ROWS
from ecgmoe.pipeline.nodes import require_here
from ecgmoe.pipeline.schema import FEATURE_TYPES, feature_schema, features_of, features_to_array, shard_name, signals_of
from ecgmoe.pipeline.store import Store


class ReadShard:
    """The block holds the number of a shard; its study_id and signal come back."""

    def __init__(self, data: str) -> None:
        self.store = Store(data)

    def __call__(self, block: pa.Table) -> pa.Table:
        require_here(self.store.root, "manifest.json")
        shard = block["shard"][0].as_py()
        with self.store.parquet(f"records/{shard_name(shard)}") as file:
            # One chunk, so that the encoder gets its batches without a copy.
            table = file.read(columns=["study_id", "signal"]).combine_chunks()
        return table.append_column("shard", pa.array(np.full(len(table), shard, dtype=np.int32)))


class EncodeShard:
    """An actor: holds the backbones, and encodes the records of a shard with those that lack its features.

    Args:
        data: prepared folder.
        backbones: feature key and configuration of each.
        batch_size: records per forward pass.
        precision: "fp32", or "bf16" for autocast.
        gpu_share: of a GPU that is this actor's.
    """

    def __init__(
        self,
        data: str,
        backbones: Sequence[tuple[str, BackboneConfig]],
        batch_size: int,
        precision: str,
        gpu_share: float,
    ) -> None:
        keep_freed_memory()
        self.store, self.batch_size, self.precision = Store(data), batch_size, precision
        self.device = torch.device("cuda" if gpu_share else "cpu")
        if 0 < gpu_share < 1:
            # Ray only counts shares; this keeps an actor from taking its neighbour's memory.
            torch.cuda.set_per_process_memory_fraction(gpu_share)
        self.types = {key: FEATURE_TYPES[config.feature_type] for key, config in backbones}
        self.backbones = {key: build(config).eval().to(self.device) for key, config in backbones}

    def __call__(self, block: pa.Table) -> pa.Table:
        name = shard_name(block["shard"][0].as_py())
        missing = [key for key in self.backbones if not self.store.exists(f"features/{key}/{name}")]
        signals = signals_of(block["signal"])
        parts: dict[str, list[np.ndarray]] = {key: [] for key in missing}
        for start in range(0, len(signals), self.batch_size):
            for key, features in self.encode(signals[start : start + self.batch_size], missing).items():
                parts[key].append(features)
        table = block.drop_columns(["signal"])
        for key in missing:
            features = np.concatenate(parts[key])
            if not np.isfinite(features).all():
                count = int((~np.isfinite(features).all((1, 2))).sum())
                raise ValueError(
                    f"{key}: features of {count} records of {name} are not finite in {features.dtype}: set feature_type "
                    "fp32 for this backbone, or look for extreme signals there"
                )
            field = feature_schema(features.shape[1], features.shape[2], str(features.dtype)).field("features")
            table = table.append_column(field.with_name(key), features_to_array(features))
        return table

    @torch.inference_mode()
    def encode(self, signals: np.ndarray, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """int16 (n, 12, 5000) to features (n, tokens, width) by key."""
        x_BCT = to_millivolt(torch.from_numpy(signals.copy()).to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            encoded = {key: self.backbones[key](x_BCT) for key in keys}
        with np.errstate(over="ignore"):  # reported with the name of the shard
            return {key: value.float().cpu().numpy().astype(self.types[key]) for key, value in encoded.items()}


class WriteShard:
    """Writes what `EncodeShard` gave, a file per backbone; says how many records it was."""

    def __init__(self, data: str) -> None:
        self.store = Store(data)

    def __call__(self, block: pa.Table) -> pa.Table:
        require_here(self.store.root, "manifest.json")
        name = shard_name(block["shard"][0].as_py())
        for field in block.schema:
            if field.name in ("study_id", "shard"):
                continue
            features = features_of(block[field.name], field)
            schema = feature_schema(features.shape[1], features.shape[2], features.dtype.name)
            table = pa.table([block["study_id"], features_to_array(features)], schema=schema)
            with self.store.writing(f"features/{field.name}/{name}") as file:
                pq.write_table(table, file, row_group_size=ROW_GROUP_ROWS, compression="zstd", use_dictionary=False)
        return pa.table({"records": [len(block)]})


class EmbedShard:
    """The three in one, for machines without a GPU; arguments are those of `EncodeShard`."""

    def __init__(self, data: str, **arguments: Any) -> None:
        self.read, self.encode, self.write = ReadShard(data), EncodeShard(data, **arguments), WriteShard(data)

    def __call__(self, block: pa.Table) -> pa.Table:
        return self.write(self.encode(self.read(block)))
