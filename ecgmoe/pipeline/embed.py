"""embed: record shards to feature shards through backbones whose weights do not change in training.

A feature folder is keyed by everything that decides its content: the backbone's weights, its pooling, the preprocessing
version, precision and type, and the records themselves. Stale features can therefore never be read; they are merely never
asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.config import FEATURES_VERSION, BackboneConfig
from ecgmoe.backbones.registry import build, describe, weights_digest
from ecgmoe.pipeline.batch_size import CPU_BATCH, find_batch_size
from ecgmoe.pipeline.config import EmbedConfig
from ecgmoe.pipeline.embed_shard import EmbedShard, EncodeShard, ReadShard, WriteShard
from ecgmoe.pipeline.nodes import refuse_local
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.ray_data import Step, actors, gpus_per_actor, map_shards
from ecgmoe.pipeline.schema import shard_name
from ecgmoe.pipeline.store import Store, digest_of

FEEDING_CPUS = 0.25
"""CPU share of a task that reads or writes shards: an eighth of a core feeds a GPU at 1,000 records/s."""


def feature_identity(config: BackboneConfig, backbone: Backbone, records_key: str, precision: str) -> dict[str, Any]:
    """All that decides the features of a backbone, as plain values."""
    return {
        "backbone": config.name,
        "architecture": backbone.describe(),
        "weights_sha256": weights_digest(backbone),
        "preprocessing_version": FEATURES_VERSION,
        "precision": precision,
        "feature_type": config.feature_type,
        "records_key": records_key,
    }


def feature_key(identity: dict[str, Any]) -> str:
    """Folder name of a backbone's features: its name and a digest of all that decides them."""
    return f"{identity['backbone']}-{digest_of(identity)[:12]}"


def embed(
    data: str, backbones: Sequence[BackboneConfig], config: EmbedConfig | None = None, *, precision: str = "fp32"
) -> dict[str, str]:
    """Compute the features of every backbone for every record shard; shards that are there are left alone.

    Args:
        data: a folder that prepare finished.
        backbones: usually those in mode "cached".
        config: actors, GPU share and batch size.
        precision: of the run that will read the features, "fp32" or "bf16".

    Returns:
        Backbone name to feature key (folder under DIR/features/).

    Raises:
        ValueError: the cluster cannot hold the actors, `data` is local and there are several nodes, or features do not
            fit into their type.
    """
    config = config or EmbedConfig()
    prepared = PreparedData(data)
    store = prepared.records
    refuse_local(data=store.root)
    keyed, manifests = feature_plan(prepared, backbones, precision)
    todo = unfinished(store, prepared.manifest["shards"], [key for key, _ in keyed])
    if todo:
        for _ in map_shards(
            "embed",
            todo,
            *steps(store, keyed, len(todo), config, precision, apart=gpus_per_actor(config.num_gpus) > 0),
            records=lambda done: done["records"][0].as_py(),
        ):
            pass
    finish(store, manifests)
    return {backbone.name: key for key, backbone in keyed}


def feature_plan(
    prepared: PreparedData, backbones: Sequence[BackboneConfig], precision: str
) -> tuple[list[tuple[str, BackboneConfig]], dict[str, dict[str, Any]]]:
    """Feature key of each backbone, and by key what its manifest will say."""
    keyed, manifests = [], {}
    for backbone in backbones:
        network = build(backbone)
        identity = feature_identity(backbone, network, prepared.manifest["records_key"], precision)
        key = feature_key(identity)
        keyed.append((key, backbone))
        manifests[key] = {**identity, **describe(backbone.name, network), "records": prepared.manifest["records"]}
    return keyed, manifests


def steps(
    store: Store,
    keyed: Sequence[tuple[str, BackboneConfig]],
    shards: int,
    config: EmbedConfig,
    precision: str,
    *,
    apart: bool,
) -> tuple[Step, ...]:
    """The operators: one, or `apart` three that overlap, with as many readers and writers as there are actors."""
    share = gpus_per_actor(config.num_gpus)
    arguments = {
        "data": store.root,
        "backbones": keyed,
        "batch_size": config.batch_size or batch_size(store, keyed, share, precision),
        "precision": precision,
        "gpu_share": share,
    }
    pool = {"fn_constructor_kwargs": arguments, **actors(shards, share, config.workers)}
    if not apart:
        return ((EmbedShard, pool),)
    feeding = {"num_cpus": FEEDING_CPUS, "compute": ray.data.TaskPoolStrategy(size=pool["compute"].min_size)}
    return (ReadShard(store.root), feeding), (EncodeShard, pool), (WriteShard(store.root), feeding)


def finish(store: Store, manifests: dict[str, dict[str, Any]]) -> None:
    """Write the manifests of feature folders that are whole now, and clear what killed writers left there."""
    for key, content in manifests.items():
        folder = store / "features" / key
        folder.remove_partial()
        if not folder.exists("manifest.json"):
            folder.write_json("manifest.json", content)


def unfinished(store: Store, shards: int, keys: Sequence[str]) -> list[pa.Table]:
    """A table for each shard with records of which a backbone's features are missing; as many rows as it has records."""
    there = {key: set((store / "features" / key).names()) for key in keys}
    tables = []
    for shard in range(shards):
        if any(shard_name(shard) not in names for names in there.values()):
            with store.parquet(f"records/{shard_name(shard)}") as file:
                rows = file.metadata.num_rows
            if rows:
                tables.append(pa.table({"shard": np.full(rows, shard, dtype=np.int32)}))
    return tables


def batch_size(store: Store, backbones: Sequence[tuple[str, BackboneConfig]], share: float, precision: str) -> int:
    """The size that a search finds on a GPU, kept for the same kind of GPU: a continued run rounds as it began."""
    if not share:
        return CPU_BATCH

    @ray.remote(num_gpus=share)
    def on_gpu(known: dict[str, int]) -> tuple[str, int]:
        device = torch.device("cuda")
        case = digest_of([[key for key, _ in backbones], torch.cuda.get_device_name(device), share])
        if case in known:
            return case, known[case]
        networks = [build(config).eval().to(device) for _, config in backbones]
        return case, find_batch_size(networks, device, share, precision)

    name = "features/batch-sizes.json"
    known = store.read_json(name) if store.exists(name) else {}
    case, size = ray.get(on_gpu.remote(known))
    if case not in known:
        store.write_json(name, {**known, case: size})
        print(f"embed: {size} records at once", flush=True)
    return size
