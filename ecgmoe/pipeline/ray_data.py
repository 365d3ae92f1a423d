"""One way to run a stage: a block per shard through Ray Data, with its progress shown."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray

from ecgmoe.pipeline.progress import Progress


def connect(num_cpus: int | None = None) -> None:
    """Join the cluster that RAY_ADDRESS names (Ray sets it inside a submitted job), or start one on this machine.

    Without RAY_ADDRESS Ray would look for the cluster that was last started here, and wait for minutes where that one
    was killed.

    Args:
        num_cpus: of a Ray that is started here; None takes all of the machine.
    """
    if not ray.is_initialized():
        address = None if os.environ.get("RAY_ADDRESS") else "local"
        cpus = {"num_cpus": num_cpus} if num_cpus and address else {}
        ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING, **cpus)


def actors(shards: int, num_gpus: float | None = None, workers: int | None = None) -> dict[str, Any]:
    """Resources for a stage that holds a network: one actor per GPU share, or per CPU where there is none.

    Args:
        shards: there are never more actors than shards.
        num_gpus: GPUs, or a fraction of one, per actor; None takes one where the cluster has any.
        workers: number of actors; None takes as many as the cluster holds.
    """
    connect()
    resources = ray.cluster_resources()
    if num_gpus is None:
        num_gpus = 1.0 if resources.get("GPU", 0) >= 1 else 0.0
    there = int(resources.get("GPU", 0) / num_gpus) if num_gpus else int(resources.get("CPU", 1))
    if num_gpus and not there:
        raise ValueError(
            f"num_gpus {num_gpus} per actor, but this cluster has {resources.get('GPU', 0):g} GPUs: leave it at 0"
        )
    size = max(1, min(workers or there, shards))
    share = {"num_gpus": num_gpus} if num_gpus else {"num_cpus": 1}
    return {"compute": ray.data.ActorPoolStrategy(size=size), **share}


def map_shards(
    stage: str,
    shards: Sequence[pa.Table],
    transform: Any,
    *,
    records: Callable[[pa.Table], int] = len,
    **resources: Any,
) -> Iterator[pa.Table]:
    """Send each shard's table through `transform` as one block and yield what comes back, in no fixed order.

    Args:
        stage: name at the head of the progress lines.
        shards: one table per shard.
        transform: function or class that takes and returns a pyarrow table; it writes its shard itself, atomically.
        records: number of records that a returned table stands for, for the progress.
        resources: passed to `Dataset.map_batches` (num_cpus, num_gpus, compute, fn_constructor_kwargs ...).
    """
    if not shards:
        return
    connect()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    dataset = ray.data.from_arrow(list(shards)).map_batches(
        transform, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **resources
    )
    progress = Progress(stage, sum(len(shard) for shard in shards))
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield table
        progress.add(records(table))
