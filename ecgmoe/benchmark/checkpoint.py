"""Saving and loading a checkpoint of training, beside torch.save and torch.load of the same tensors on the same disk.

Ours is what a run of one worker does (`Worker.save`, `Worker.resume`): DeepSpeed's shards, the same by name for another number
of workers, and a model folder ready to predict, each written locally, copied into the run with its digest, forced onto the disk
and committed by a manifest, while the oldest checkpoint goes; and before anything is loaded all digests are verified. The bare
way keeps each tensor of the last two once in one file, which it too forces onto the disk before it takes its name; it loads
them with `weights_only=True` and copies them to where they were.
Files lie in the system's cache when they are loaded. torch.load takes its time for each tensor, of which there are many small
ones; DeepSpeed's shards hold few large ones, which is why ours may be the faster one.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ecgmoe.benchmark.paired import interleaved, ratio
from ecgmoe.benchmark.training import worker_job, worker_of
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import require
from ecgmoe.model.files import WEIGHTS
from ecgmoe.pipeline.embed import embed
from ecgmoe.pipeline.prepared import PreparedData, split_rows
from ecgmoe.training.alone import group_of_one

Tensors = dict[str, dict[str, Tensor]]


def checkpoint_benchmark(
    data: str, config: RunConfig, scratch: Path, *, preset: str, pairs: int = 10
) -> dict[str, Any]:
    """Train a step, then alternate saving with saving and loading with loading.

    Args:
        data: prepared folder, with at least one global batch of training records.
        config: of the training; layout and device are set to one worker on a CPU.
        scratch: folder on the disk that is written to.
        preset: name of the configuration.
        pairs: rounds that count.

    Returns:
        Seconds of "save" and "load", ours and bare (medians), and the bare way's time as a share of ours; bytes of ours by
        what they are for, and of the bare file, with its number of tensors.

    Raises:
        ValueError: the data have too few training records for one step.
    """
    records, batch = len(split_rows(PreparedData(data).labels(), "train")), config.training.global_batch
    require(records >= batch, f"{data} has {records} training records and a step takes {batch}: choose another --root")
    os.environ |= {"DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    group_of_one()
    config = replace(config, training=replace(config.training, num_workers=1, min_workers=0, use_gpu=False))
    features = embed(data, config.cached, precision=config.training.precision) if config.cached else {}
    if config.cached:
        import ray

        # Nothing else runs while it is measured.
        ray.shutdown()
    from ecgmoe.training.engine import destroy

    worker = worker_of(worker_job(config, PreparedData(data, features), str(scratch)))
    try:
        return {"preset": preset, "pairs": pairs, **_measure(worker, scratch / "bare.pt", pairs)}
    finally:
        destroy(worker.engine)


def _measure(worker: Any, file: Path, pairs: int) -> dict[str, Any]:
    from ecgmoe.training.checkpoint import Position
    from ecgmoe.training.portable import FILE
    from ecgmoe.training.progress import Progress

    whole, batch = next(iter(worker.batches(worker.plan(0), 0, 0)))
    # The optimiser keeps nothing before its first step.
    worker.step(batch, whole)
    worker.average.update(worker.engine.global_steps)
    position = Position(batch=1, step=1)
    progress = Progress(worker.training, worker.total_steps, 0, worker.tracker, worker.load, worker.reader)

    def save() -> None:
        worker.save(position, None, progress)
        # Each save is another checkpoint, as in training.
        position.step += 1

    save()
    saved = worker.checkpoints.committed()[-1]
    folder = Path((worker.checkpoints.store / saved.name).root)
    # Out of their files: the others are deleted later.
    tensors = {
        name: {key: value.clone() for key, value in load_file(folder / path).items()}
        for name, path in {"training": FILE, "model": f"model/{WEIGHTS}"}.items()
    }
    saving = interleaved([_timed(save), _timed(lambda: _save_bare(tensors, file))], pairs)
    loading = interleaved([_timed(worker.resume), _timed(lambda: _load_bare(tensors, file))], pairs)
    return {
        "save": _seconds(*saving),
        "load": _seconds(*loading),
        "bytes": _bytes(saved.files),
        "bare_bytes": file.stat().st_size,
        "bare_tensors": sum(map(len, tensors.values())),
    }


def _timed(way: Callable[[], Any]) -> Callable[[], float]:
    """Seconds that it takes."""

    def timed() -> float:
        started = time.perf_counter()
        way()
        return time.perf_counter() - started

    return timed


def _save_bare(tensors: Tensors, file: Path) -> None:
    partial = file.with_suffix(".partial")
    with partial.open("wb") as opened:
        torch.save(tensors, opened)
        opened.flush()
        os.fsync(opened.fileno())
    partial.replace(file)


def _load_bare(tensors: Tensors, file: Path) -> None:
    """Into the same tensors."""
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    for name, part in loaded.items():
        for key, value in part.items():
            tensors[name][key].copy_(value)


def _seconds(ours: list[float], bare: list[float]) -> dict[str, Any]:
    return {
        "seconds": statistics.median(ours),
        "bare_seconds": statistics.median(bare),
        "bare_share": asdict(ratio(bare, ours)),
    }


def _bytes(files: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Of a checkpoint's files, by the first part of their path."""
    found: dict[str, int] = {}
    for path, entry in files.items():
        first = path.partition("/")[0]
        found[first] = found.get(first, 0) + entry["bytes"]
    return found
