"""A small prepared folder of simulated ECGs, made without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.datasets.index import build_index
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.pipeline import embed
from ecgmoe.pipeline.config import DatasetName, PrepareConfig
from ecgmoe.pipeline.embed_shard import EmbedShard
from ecgmoe.pipeline.prepare import finish, refuse_other_plan, shard_plan
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.ray_data import Step
from ecgmoe.pipeline.record_shard import PrepareShard
from ecgmoe.pipeline.store import Store, digest_of


def prepare_here(
    root: Path, out: Path, config: PrepareConfig | None = None, dataset: DatasetName = "simulated"
) -> None:
    """What `prepare` does, shard by shard in this process."""
    config = config or PrepareConfig()
    index = build_index(dataset, str(root), options=config.index)
    shards, plan = shard_plan(index, config)
    store = Store(out)
    refuse_other_plan(store, plan, config.index)
    write = PrepareShard(str(root), store.root, config.quality, config.reader, digest_of(plan), config.compression)
    for shard in shards:
        write(shard)
    finish(store, index, plan, config, len(shards))


def simulated_and_prepared(folder: Path, *, patients: int = 80, studies: int = 200, seed: int = 1) -> Path:
    """Simulate into folder/raw and prepare into folder/data, which is returned."""
    simulate(folder / "raw", SimulationConfig(patients=patients, studies=studies, seed=seed))
    prepare_here(folder / "raw", folder / "data")
    return folder / "data"


def embed_here(
    data: Path, backbones: Sequence[BackboneConfig], precision: str = "fp32", batch_size: int = 32
) -> dict[str, str]:
    """What `embed` does, shard by shard in this process; returns the feature keys."""
    prepared = PreparedData(str(data))
    store = prepared.records
    keyed, manifests = embed.feature_plan(prepared, backbones, precision)
    write = EmbedShard(store.root, backbones=keyed, batch_size=batch_size, precision=precision, gpu_share=0)
    for shard in embed.unfinished(store, prepared.manifest["shards"], [key for key, _ in keyed]):
        write(shard)
    embed.finish(store, manifests)
    return {backbone.name: key for key, backbone in keyed}


def map_here(stage: str, shards: Sequence[pa.Table], *steps: Step, **_: object) -> Iterator[pa.Table]:
    """What `map_shards` does, in this process and, as Ray may, not in the order of the shards."""
    made = [
        transform(**resources.get("fn_constructor_kwargs", {})) if isinstance(transform, type) else transform
        for transform, resources in steps
    ]
    for shard in reversed(shards):
        for transform in made:
            shard = transform(shard)
        yield shard
