"""The memory of a training step at each ZeRO stage: predicted beside measured, on ranks that are processes of their own."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.benchmark.memory import measured, peak_bytes
from ecgmoe.benchmark.ranks import join_group
from ecgmoe.config import RunConfig
from ecgmoe.model.config import ModelConfig
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.memory import ZERO_STAGES, Stage

ALLOCATOR = {
    # Every tensor goes back to the system when it is freed, so that resident memory is what is held. As it comes, glibc
    # keeps freed blocks of up to 32 MB for later.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
STEPS = 3
"""The first makes AdamW's moments; at stage 3 it records in which order weights are asked for."""
RECORDS = 8
"""Of the global batch."""


def example(width: int = 512, frozen: str = "base") -> RunConfig:
    """26 million parameters that train and 35 million that do not, MOMENT's; all random."""
    return RunConfig(
        backbones=(
            BackboneConfig(name="dlinear", mode="full"),
            BackboneConfig(name="moment", size=frozen, mode="frozen", allow_random=True),  # type: ignore[arg-type]
        ),
        model=ModelConfig(width=width),
        training=TrainingConfig(num_workers=2, global_batch=RECORDS),
    )


def memory_benchmark(
    config: RunConfig | None = None, stages: Sequence[Stage] = ZERO_STAGES, *, allocator: bool = True
) -> dict[str, Any]:
    """Train some steps at each stage and compare the largest resident memory of a rank with the prediction.

    Args:
        config: of the run; `example` by default.
        stages: of ZeRO.
        allocator: give freed memory back at once (`ALLOCATOR`); without it the allocator decides.

    Returns:
        By stage: the prediction's parts, `predicted_bytes`, `measured_bytes` (peak of the last step of the rank that
        took most, above what its process held before the model was built), `held_bytes` (between steps) and `ratio`,
        predicted over measured; and `markdown`, the same as a table.
    """
    config = config or example()
    rows = {str(stage): _stage(config, stage, ALLOCATOR if allocator else {}) for stage in stages}
    return {"workers": config.training.num_workers, "stages": rows, "markdown": markdown(rows)}


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The table in MB."""
    names = ("parameters", "optimiser", "gradients", "buffers", "activations", "predicted", "measured", "held")
    lines = [f"| ZeRO | {' | '.join(names)} | ratio |", "|---" * (len(names) + 2) + "|"]
    for stage, row in rows.items():
        values = [f"{row[f'{name}_bytes'] / 1e6:,.0f}" for name in names]
        lines.append(f"| {stage} | {' | '.join(values)} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def _stage(config: RunConfig, stage: Stage, allocator: dict[str, str]) -> dict[str, Any]:
    training = replace(config.training, zero_stage=stage)  # type: ignore[arg-type]
    config, world = replace(config, training=training), training.num_workers
    with tempfile.TemporaryDirectory() as folder, _environment(allocator), ThreadPoolExecutor(world) as pool:
        ranks = list(pool.map(lambda rank: measured(_rank, rank, folder, config).value, range(world)))
    plan = {f"{name}_bytes": value for name, value in ranks[0]["plan"].items()}
    predicted, largest = plan.pop("total_bytes"), max(rank["peak"] for rank in ranks)
    return {
        **plan,
        "predicted_bytes": predicted,
        "measured_bytes": largest,
        "held_bytes": max(rank["held"] for rank in ranks),
        "ratio": predicted / largest,
    }


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that processes started meanwhile begin with."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _rank(rank: int, folder: str, config: RunConfig) -> dict[str, Any]:
    join_group(rank, config.training.num_workers, folder)
    import torch.distributed as dist

    # A small model first, so that what libraries load and compile when they are first used is not counted.
    small = tuple(replace(each, size="tiny") for each in config.backbones)
    _train(replace(config, backbones=small, model=ModelConfig(width=16)))
    result = _train(config)
    dist.barrier()
    dist.destroy_process_group()
    return result


def _train(config: RunConfig) -> dict[str, Any]:
    from ecgmoe.training.engine import destroy

    base = _held()
    training = NoiseTraining(config)
    for _ in range(STEPS):
        _forget_peak()
        training.step()
    peak, held = peak_bytes() - base, _held() - base
    destroy(training.engine)
    return {"plan": asdict(training.plan), "peak": peak, "held": held}


class NoiseTraining:
    """The real training step of this rank on one batch of noise, always the same. The process group must exist.

    Attributes:
        sizes: what decides the memory of this rank.
        plan: the memory that was predicted before the engine was made.
        engine: DeepSpeed's.
    """

    def __init__(self, config: RunConfig) -> None:
        import torch

        from ecgmoe.benchmark.variants import neutral_statistics, noise
        from ecgmoe.training.build import build_backbones, build_model
        from ecgmoe.training.engine import initialise
        from ecgmoe.training.memory import predict
        from ecgmoe.training.memory_report import PROBED, sizes_of
        from ecgmoe.training.plan import GlobalBatch
        from ecgmoe.training.routing import RoutingLoad
        from ecgmoe.training.step import TrainingStep

        training, tasks, total = config.training, config.task_table(), config.training.global_batch
        statistics, count = neutral_statistics(tasks), total // training.num_workers
        self.whole = GlobalBatch(rows=np.arange(total), counts=(count,) * training.num_workers)
        self.batch = noise(count)
        self.batch.labels = {task.name: torch.zeros(count) for task in tasks}
        model = build_model(config, statistics, build_backbones(config))
        self.sizes = sizes_of(model, training, self.batch.rows(0, PROBED))
        self.plan = predict(training.zero_stage, self.sizes)
        self.engine = initialise(model, training, 100)
        # All that a step asks of the reader: labels and patients of the global batch.
        reader: Any = SimpleNamespace(
            labels={task.name: np.zeros(total, np.float32) for task in tasks}, patient_id=np.arange(total)
        )
        load = RoutingLoad([task.name for task in tasks], config.model.expert_names, self.engine.device)
        self._step = TrainingStep(self.engine, config, statistics, reader, load)

    def step(self) -> dict[str, Any]:
        """One optimiser step; every rank must make it. Returns this rank's share of each loss."""
        return self._step(self.batch, self.whole)


def _held() -> int:
    """Resident bytes after everything that can be freed was."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _forget_peak() -> None:
    """Let the largest resident memory count from now on (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
