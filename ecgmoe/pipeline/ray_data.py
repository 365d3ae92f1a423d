"""One way to run a stage: a block per shard through Ray Data, with its progress shown."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray

from ecgmoe.filesystem import StorageError
from ecgmoe.pipeline.layout import Operator, refuse_impossible, say_who_waits
from ecgmoe.pipeline.progress import Progress


def connect(num_cpus: int | None = None, *, dashboard: bool | None = None) -> None:
    """Join the cluster that RAY_ADDRESS names (Ray sets it inside a submitted job), or start one on this machine.

    Without RAY_ADDRESS Ray would look for the cluster that was last started here, and wait for minutes where that one
    was killed.

    Args:
        num_cpus: of a Ray that is started here; None takes all of the machine.
        dashboard: of a Ray that is started here; None leaves it to Ray.

    Raises:
        StorageError: Ray has no space for its own files on this machine.
        TimeoutError: it did not start in time.
    """
    if not ray.is_initialized():
        address = None if os.environ.get("RAY_ADDRESS") else "local"
        own: dict[str, Any] = {"num_cpus": num_cpus} if num_cpus and address else {}
        if dashboard is not None and address:
            own["include_dashboard"] = dashboard
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING, **own)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            place = error.filename or os.environ.get("RAY_TMPDIR", "/tmp/ray")
            raise StorageError(
                f"Ray cannot write its own files to {place} ({error.strerror}): free some space there, or set RAY_TMPDIR "
                "to a folder on another disk"
            ) from error
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            raise TimeoutError(
                "Ray did not start within its 30 s on this machine, which has too much else to do: run the same command again "
                "when it has less, what is finished is kept"
            ) from error
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler, in C++, aborts the process with a list of addresses.
            signal.signal(signal.SIGTERM, before)


def gpus_per_actor(num_gpus: float | None) -> float:
    """`num_gpus` where it is set, else one where the cluster has any.

    Raises:
        ValueError: the cluster has no GPU to share.
    """
    connect()
    there = ray.cluster_resources().get("GPU", 0)
    if num_gpus is None:
        return 1.0 if there >= 1 else 0.0
    if num_gpus and there < num_gpus:
        raise ValueError(f"num_gpus {num_gpus} per actor, but this cluster has {there:g} GPUs: leave it at 0")
    return num_gpus


def actors(shards: int, num_gpus: float | None = None, workers: int | None = None) -> dict[str, Any]:
    """Resources for a step that holds a network: one actor per GPU share, or per CPU where there is none.

    Args:
        shards: there are never more actors than shards.
        num_gpus: GPUs, or a fraction of one, per actor; None takes one where the cluster has any.
        workers: number of actors; None takes as many as the cluster holds.

    Raises:
        ValueError: more actors than the cluster can hold, which would wait for ever.
    """
    share = gpus_per_actor(num_gpus)
    resources = ray.cluster_resources()
    # An actor cannot straddle two GPUs: three of 0.4 need two, not 1.2.
    there = int(resources["GPU"]) * int(1 / share) if 0 < share < 1 else 0
    # Without any, one is asked for, and `map_shards` says what is missing.
    there = there or int(resources["GPU"] / share if share else resources.get("CPU", 0)) or 1
    if workers and workers > there:
        each = f"{share:g} GPU" if share else "1 CPU"
        raise ValueError(
            f"{workers} workers of {each} each, and this cluster holds {there}: set workers to at most {there}"
        )
    size = max(1, min(workers or there, shards))
    return {"compute": ray.data.ActorPoolStrategy(size=size), **({"num_gpus": share} if share else {"num_cpus": 1})}


Step = tuple[Any, dict[str, Any]]
"""A function or class that takes and returns a pyarrow table, and its arguments for `Dataset.map_batches` (num_cpus,
num_gpus, compute, fn_constructor_kwargs ...)."""


def map_shards(
    stage: str,
    shards: Sequence[pa.Table],
    *steps: Step,
    records: Callable[[pa.Table], int] = len,
) -> Iterator[pa.Table]:
    """Send each shard's table through the steps as one block and yield what comes back, in no fixed order.

    Args:
        stage: name at the head of the progress lines.
        shards: one table per shard.
        steps: each is an operator of its own; one of them writes the shard, atomically.
        records: number of records that a returned table stands for, for the progress.

    Raises:
        ValueError: the cluster cannot hold the steps, so that some would wait for ever.
    """
    if not shards:
        return
    connect()
    operators = [Operator.of(resources) for _, resources in steps]
    refuse_impossible(stage, operators, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    say_who_waits(stage, operators)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A shard is one block from end to end: cut in two, it would be written twice under one name.
    context.target_max_block_size = None
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    dataset = ray.data.from_arrow(list(shards))
    for transform, resources in steps:
        dataset = dataset.map_batches(
            transform, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **resources
        )
    progress = Progress(stage, sum(len(shard) for shard in shards))
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield table
        progress.add(records(table))
