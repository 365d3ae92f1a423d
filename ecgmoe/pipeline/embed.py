"""embed: record shards to feature shards through backbones whose weights do not change in training.

A feature folder is keyed by everything that decides its content: the backbone's weights, its pooling, the preprocessing
version and the records themselves. Stale features can therefore never be read; they are merely never asked for again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.config import PREPROCESSING_VERSION, BackboneConfig
from ecgmoe.backbones.registry import build, weights_digest
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.pipeline.config import ROW_GROUP_ROWS, EmbedConfig
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.ray_data import actors, map_shards
from ecgmoe.pipeline.schema import feature_schema, shard_name, signals_of
from ecgmoe.pipeline.store import Store, digest_of


def feature_key(config: BackboneConfig, backbone: Backbone, records_key: str) -> str:
    """Folder name of a backbone's features: its name and a digest of all that decides them."""
    identity = [
        config.name,
        backbone.describe(),
        PREPROCESSING_VERSION,
        records_key,
        weights_digest(backbone),
    ]
    return f"{config.name}-{digest_of(identity)[:12]}"


class EmbedShard:
    """An actor: holds the backbones and writes, for one record shard, the feature shards that are missing."""

    def __init__(self, data: str, backbones: Sequence[tuple[str, BackboneConfig]], batch_size: int) -> None:
        self.store, self.batch_size = Store(data), batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backbones = {key: build(config).eval().to(self.device) for key, config in backbones}

    @torch.inference_mode()
    def __call__(self, block: pa.Table) -> pa.Table:
        name = shard_name(block["shard"][0].as_py())
        missing = {k: b for k, b in self.backbones.items() if not self.store.exists(f"features/{k}/{name}")}
        records = 0
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(self.store.parquet(f"records/{name}"))
            writers = {}
            for key, backbone in missing.items():
                file = stack.enter_context(self.store.writing(f"features/{key}/{name}"))
                schema = feature_schema(backbone.tokens, backbone.width)
                writers[key] = stack.enter_context(
                    pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False)
                )
            for batch in source.iter_batches(batch_size=self.batch_size, columns=["study_id", "signal"]):
                signal = torch.from_numpy(signals_of(batch["signal"]).copy()).to(self.device)
                x_BCT = to_millivolt(signal)
                for key, backbone in missing.items():
                    features = backbone(x_BCT).to(torch.float16).cpu().numpy()
                    writers[key].write_table(_feature_table(batch["study_id"], features), ROW_GROUP_ROWS)
                records += len(signal)
        return pa.table({"records": [records]})


def _feature_table(study_id: pa.Array, features: np.ndarray) -> pa.Table:
    schema = feature_schema(features.shape[1], features.shape[2])
    width = schema.field("features").type.byte_width
    column = pa.Array.from_buffers(
        pa.binary(width), len(features), [None, pa.py_buffer(np.ascontiguousarray(features))]
    )
    return pa.Table.from_arrays([study_id, column], schema=schema)


def embed(data: str, backbones: Sequence[BackboneConfig], config: EmbedConfig | None = None) -> dict[str, str]:
    """Compute the features of every backbone for every record shard; shards that are there are left alone.

    Args:
        data: a folder that prepare finished.
        backbones: usually those in mode "cached".
        config: actors, GPU share and batch size.

    Returns:
        Backbone name to feature key (folder under DIR/features/).
    """
    config = config or EmbedConfig()
    prepared = PreparedData(data)
    store, manifest = prepared.store, prepared.manifest
    keyed = []
    for backbone in backbones:
        keyed.append((feature_key(backbone, build(backbone), manifest["records_key"]), backbone))
    shards = []
    for shard in range(manifest["shards"]):
        if any(not store.exists(f"features/{key}/{shard_name(shard)}") for key, _ in keyed):
            with store.parquet(f"records/{shard_name(shard)}") as file:
                rows = file.metadata.num_rows
            shards.append(pa.table({"shard": np.full(rows, shard, dtype=np.int32)}) if rows else None)
    shards = [shard for shard in shards if shard is not None]
    for _ in map_shards(
        "embed",
        shards,
        EmbedShard,
        records=lambda done: done["records"][0].as_py(),
        fn_constructor_kwargs={"data": store.root, "backbones": keyed, "batch_size": config.batch_size},
        **actors(len(shards), config.num_gpus, config.workers),
    ):
        pass
    return {backbone.name: key for key, backbone in keyed}
