"""What the time of a pass depends on: records in a batch, beats of a record, leads, tasks and backbones, one at a time.

    forward   a pass in inference mode with every backbone computed, as predict makes it
    training  forward and backward of the composite loss, as the configuration trains: features of cached backbones come with
              the batch, and no optimiser or other rank takes part

Both on one thread of one process, with the allocator of predict, on noise. Weights are as initialised: they do not change how
long a pass takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecgmoe import variants
from ecgmoe.allocator import keep_freed_memory
from ecgmoe.benchmark.inference import fresh_model
from ecgmoe.benchmark.paired import interleaved, ratio
from ecgmoe.benchmark.variants import neutral_statistics, noise
from ecgmoe.config import RunConfig
from ecgmoe.ecg.record import MISSING, N_LEADS, N_SAMPLES
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.losses import composite, task_losses
from ecgmoe.training.alone import group_of_one
from ecgmoe.training.build import build_backbones, build_model
from ecgmoe.training.global_terms import GlobalTerms
from ecgmoe.training.plan import GlobalBatch

FORWARD, TRAINING = "forward", "training"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One case of a sweep.

    Attributes:
        name: as the table prints it.
        amount: what a linear cost would be proportional to.
        config: of the model.
        batch: what it is given; features and labels are added.
    """

    name: str
    amount: float
    config: RunConfig
    batch: ECGBatch


def costs_benchmark(
    config: RunConfig,
    *,
    pairs: int = 10,
    records: int = 8,
    batches: Sequence[int] = (4, 16, 64),
    beats: Sequence[int] = (5, 10, 20, 40),
    leads: Sequence[int] = (1, 3, 6, N_LEADS),
) -> dict[str, Any]:
    """Sweep each of the five and compare every point with the first of its sweep, in interleaved rounds.

    Args:
        config: of the model; tasks and backbones are taken away from its end.
        pairs: rounds that count, at least 6.
        records: in a batch, where that is not what is swept.
        batches: records of a batch.
        beats: of each record. Shorter records are padded to the longest of their batch, which a last point shows.
        leads: that are there; the others are missing from end to end.

    Returns:
        By sweep and point: `linear`, how many times the first point's time a linear cost would be, and for the forward pass
        and the training step the median in ms and `times_first` (`Ratio`); and `markdown`, the same as a table.

    Raises:
        ValueError: fewer than six pairs.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    group_of_one()
    sweeps = {
        "records": [_point(f"{n}", n, config, noise(n)) for n in batches],
        "beats": [_point(f"{n}", n, config, with_beats([n] * records)) for n in beats],
        "leads": [_point(f"{n}", n, config, with_leads(records, n)) for n in leads],
        "tasks": [_point(f"{n}", n, with_tasks(config, n), noise(records)) for n in range(1, len(config.tasks) + 1)],
        "backbones": [
            _point(f"{n} (with {config.backbones[n - 1].name})", n, with_backbones(config, n), noise(records))
            for n in range(1, len(config.backbones) + 1)
        ],
    }
    mixed = [beats[-1], *[beats[0]] * (records - 1)]
    sweeps["beats"].append(
        _point(f"{beats[0]}, one record {beats[-1]}", sum(mixed) / records, config, with_beats(mixed))
    )
    found = {name: _sweep(points, pairs) for name, points in sweeps.items()}
    return {"pairs": pairs, "records": records, "sweeps": found, "markdown": markdown(found)}


def markdown(sweeps: Mapping[str, Mapping[str, Any]]) -> str:
    """Times as long as the first point of each sweep, beside what a linear cost would be."""
    lines = [
        "| sweep | point | linear | forward, times the first | ms | training, times the first | ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for sweep, points in sweeps.items():
        for name, point in points.items():
            cells = []
            for kind in (FORWARD, TRAINING):
                times = point[kind]["times_first"]
                cells.append(f"{times['median']:.2f} ({times['low']:.2f} to {times['high']:.2f})")
                cells.append(f"{point[kind]['ms']:.1f}")
            lines.append(f"| {sweep} | {name} | {point['linear']:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_beats(counts: Sequence[int]) -> ECGBatch:
    """Noise whose records have so many R peaks, evenly spaced; padded to the longest."""
    batch = noise(len(counts))
    peaks = torch.full((len(counts), max(counts)), -1, dtype=torch.int32)
    for row, count in enumerate(counts):
        peaks[row, :count] = ((torch.arange(count) + 0.5) * N_SAMPLES / count).int()
    batch.r_peaks = peaks
    return batch


def with_leads(records: int, leads: int) -> ECGBatch:
    """Noise of which only the first leads are there."""
    batch = noise(records)
    batch.signal[:, leads:] = MISSING
    return batch


def with_tasks(config: RunConfig, count: int) -> RunConfig:
    """The first `count` tasks alone."""
    tasks = config.tasks[:count]
    weights = {name: weight for name, weight in config.loss.task_weights.items() if name in tasks}
    return replace(config, tasks=tasks, loss=replace(config.loss, task_weights=weights))


def with_backbones(config: RunConfig, count: int) -> RunConfig:
    """The first `count` backbones alone; those that have heads of their own keep them."""
    backbones = config.backbones[:count]
    names = [each.name for each in backbones]
    late = tuple(name for name in config.model.late_backbones if name in names)
    # Never more late ones than may be left without a fused one, and no more chosen per record than there are.
    chosen = min(config.model.backbones_per_record, max(0, count - len(late)))
    weight = config.model.late_weight if late else 1.0
    model = replace(config.model, late_backbones=late, late_weight=weight, backbones_per_record=chosen)
    return variants.with_backbones(config, backbones, model=model)


def _point(name: str, amount: float, config: RunConfig, batch: ECGBatch) -> Point:
    return Point(name=name, amount=amount, config=config, batch=batch)


def _sweep(points: Sequence[Point], pairs: int) -> dict[str, Any]:
    makers = {FORWARD: forward_pass, TRAINING: training_pass}
    # One pass at a time holds its models, or six configurations would lie in memory at once.
    found = {
        kind: interleaved([partial(_timed, make(point)) for point in points], pairs) for kind, make in makers.items()
    }
    result = {}
    for index, point in enumerate(points):
        result[point.name] = {
            "linear": point.amount / points[0].amount,
            **{
                kind: {
                    "ms": 1e3 * statistics.median(times[index]),
                    "times_first": asdict(ratio(times[index], times[0])),
                }
                for kind, times in found.items()
            },
        }
    return result


def forward_pass(point: Point) -> Callable[[], object]:
    """Predictions of the batch in their units."""
    model = fresh_model(point.config)

    @torch.inference_mode()
    def run() -> object:
        return model.in_units(model(point.batch).predictions)

    return run


def training_pass(point: Point) -> Callable[[], object]:
    """Forward and backward; gradients are dropped before the next. The process group must exist."""
    model, batch = training_model(point.config, point.batch)

    def run() -> None:
        model.zero_grad()
        loss_of(model, point.config, batch).backward()

    return run


def training_model(config: RunConfig, batch: ECGBatch) -> tuple[ECGMoE, ECGBatch]:
    """The model as a run begins with it, in training mode, and the batch with labels and features of cached backbones."""
    tasks, backbones, batch = config.task_table(), build_backbones(config), replace(batch)
    batch.features = {
        each.name: torch.randn(len(batch), backbones[each.name].tokens, backbones[each.name].width)
        for each in config.cached
    }
    batch.labels = {task.name: torch.zeros(len(batch)) for task in tasks}
    return build_model(config, neutral_statistics(tasks), backbones).train(), batch


def loss_of(model: ECGMoE, config: RunConfig, batch: ECGBatch) -> Tensor:
    """The composite loss of a batch that is the whole global batch. The process group of one must exist."""
    tasks, terms = config.task_table(), GlobalTerms(config.loss)
    totals = {task.name: float(len(batch)) for task in tasks}
    output = model(batch)
    parts = task_losses(output, batch, tasks, model.statistics, totals)
    whole = GlobalBatch(rows=np.arange(len(batch)), counts=(len(batch),))
    parts |= terms(terms.see(output), whole, batch.patient_id)
    return composite(parts, config.loss, tasks, output.log_variance, totals, 1.0)


def _timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
