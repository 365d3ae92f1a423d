"""How fast embed is for each backbone, beside bare PyTorch loops over the same batches."""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import time
from dataclasses import asdict
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch

from ecgmoe.backbones.config import BackboneConfig, Size
from ecgmoe.backbones.registry import BACKBONES, build
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.benchmark.paired import interleaved, ratio
from ecgmoe.pipeline.config import EmbedConfig
from ecgmoe.pipeline.embed import feature_plan, steps, unfinished
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.ray_data import connect, map_shards
from ecgmoe.pipeline.schema import shard_name, signals_of
from ecgmoe.pipeline.store import Store

BATCH = 32
WARM_SHARDS = 2
"""Per worker, left out of the rates on both sides: imports, first kernels, filling of the pipeline."""


def embed_benchmark(
    data: str, *, pairs: int, size: Size = "tiny", workers: int = 2, names: tuple[str, ...] = tuple(BACKBONES)
) -> dict[str, Any]:
    """Alternate bare loops and embed, one backbone at a time, on a machine's CPUs.

    A bare loop reads the row groups, encodes batch after batch and keeps the result: as many processes as workers, one
    thread each. embed does the same through Ray Data and writes the features.

    Args:
        data: prepared folder of sixteen shards or more; its features are deleted.
        pairs: interleaved rounds of each backbone.
        size: of the encoders, at random weights.
        workers: processes of the loop, and actors of embed.
        names: of the backbones.
    """
    result = {}
    for name in names:
        config = BackboneConfig(name=name, size=size, mode="cached", allow_random=True)
        # Both sides leave out their own first shards.
        ways = [partial(_bare, data, config, workers), partial(_embed, data, config, workers)]
        bare, whole = interleaved(ways, pairs, warm_up=0)
        result[name] = {
            "bare_records_per_second": statistics.median(bare),
            "embed_records_per_second": statistics.median(whole),
            "bare_share": asdict(ratio(whole, bare)),
        }
    return {"size": size, "workers": workers, "pairs": pairs, "batch": BATCH, "backbones": result}


def _embed(data: str, config: BackboneConfig, workers: int) -> float:
    """Records per second of embed once its actors are warm."""
    shutil.rmtree(Path(data) / "features", ignore_errors=True)
    prepared = PreparedData(data)
    connect(num_cpus=workers)
    try:
        keyed, _ = feature_plan(prepared, [config], "fp32")
        todo = unfinished(prepared.store, prepared.manifest["shards"], [key for key, _ in keyed])
        options = EmbedConfig(workers=workers, num_gpus=0, batch_size=BATCH)
        done = []
        operators = steps(prepared.store, keyed, len(todo), options, "fp32", apart=False)
        for table in map_shards("embed", todo, *operators, records=lambda table: table["records"][0].as_py()):
            done.append((time.perf_counter(), table["records"][0].as_py()))
    finally:
        ray.shutdown()
    warm = WARM_SHARDS * workers
    return sum(records for _, records in done[warm:]) / (done[-1][0] - done[warm - 1][0])


def _bare(data: str, config: BackboneConfig, workers: int) -> float:
    """Records per second of so many plain processes at once."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.Queue()
    shards = PreparedData(data).manifest["shards"]
    processes = [
        context.Process(target=_loop, args=(data, config, list(range(rank, shards, workers)), barrier, results))
        for rank in range(workers)
    ]
    for process in processes:
        process.start()
    done = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(records for records, _, _ in done) / (max(end for *_, end in done) - min(start for _, start, _ in done))


def _loop(data: str, config: BackboneConfig, shards: list[int], barrier: Barrier, results: Any) -> None:
    torch.set_num_threads(1)
    store, backbone = Store(data), build(config).eval()

    def encode(shard: int) -> int:
        records = 0
        with store.parquet(f"records/{shard_name(shard)}") as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=["signal"]):
                signals = torch.from_numpy(signals_of(pa.chunked_array([batch["signal"]])).copy())
                backbone(to_millivolt(signals)).to(torch.float16).numpy()
                records += len(signals)
        return records

    with torch.inference_mode():
        for shard in shards[:WARM_SHARDS]:
            encode(shard)
        barrier.wait()
        # Wall clock, because the processes are compared with each other.
        start = time.time()
        records = sum(encode(shard) for shard in shards[WARM_SHARDS:])
        results.put((records, start, time.time()))
