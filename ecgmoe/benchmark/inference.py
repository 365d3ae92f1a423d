"""How long one ECG takes for all tasks: one pass of ECG-MoE, the paper's multi-task baseline, and five single-task copies.

From the int16 waveform in memory to predictions in their units, with every backbone computed. Weights are as initialised:
they do not change how long a pass takes.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from ecgmoe.allocator import keep_freed_memory
from ecgmoe.benchmark.paired import interleaved, ratio
from ecgmoe.benchmark.variants import neutral_statistics, noise
from ecgmoe.config import RunConfig
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.training.build import build_backbones
from ecgmoe.variants import variant

ECG_MOE, BASELINE, COPIES = "ecg_moe", "multi_task_baseline", "single_task_copies"


def inference_benchmark(config: RunConfig, *, batches: tuple[int, ...] = (1, 32), pairs: int = 15) -> dict[str, Any]:
    """Alternate the three on the same records, on one thread of this machine's CPU.

    Args:
        config: of ECG-MoE; the others follow from it.
        batches: numbers of records in a pass.
        pairs: rounds that count.

    Returns:
        By batch: milliseconds per record of each (medians), and how many times as long as one pass of ECG-MoE the others take
        (`Ratio`).
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    models = {name: models_of(config, name) for name in (ECG_MOE, BASELINE, COPIES)}
    result: dict[str, Any] = {
        "tasks": list(config.tasks),
        "parameters": {
            name: sum(p.numel() for model in each for p in model.parameters()) for name, each in models.items()
        },
    }
    for records in batches:
        batch = noise(records)
        found = interleaved([partial(_timed, each, batch) for each in models.values()], pairs)
        times = {name: [1000 * seconds / records for seconds in each] for name, each in zip(models, found, strict=True)}
        result[f"batch_{records}"] = {
            "ms_per_record": {name: statistics.median(values) for name, values in times.items()},
            "times_ecg_moe": {name: asdict(ratio(times[name], times[ECG_MOE])) for name in (BASELINE, COPIES)},
        }
    return result


def models_of(config: RunConfig, which: str) -> list[ECGMoE]:
    """Those that together predict all tasks: ECG_MOE, BASELINE or COPIES."""
    if which == COPIES:
        equal = replace(config.loss, task_weighting="equal", task_weights={})
        return [fresh_model(replace(config, tasks=(task,), loss=equal)) for task in config.tasks]
    return [fresh_model(variant(which, config))]


def one_pass(models: list[ECGMoE], records: int) -> None:
    """Predict so many records of noise on one thread."""
    torch.set_num_threads(1)
    _timed(models, noise(records))


def fresh_model(config: RunConfig) -> ECGMoE:
    """As training starts with it, with every backbone live."""
    tasks = config.task_table()
    live = build_backbones(config)
    widths = {name: backbone.width for name, backbone in live.items()}
    return ECGMoE(config.model, tasks=tasks, widths=widths, statistics=neutral_statistics(tasks), live=live).eval()


@torch.inference_mode()
def _predict(model: ECGMoE, batch: ECGBatch) -> dict[str, torch.Tensor]:
    return model.in_units(model(batch).predictions)


def _timed(models: list[ECGMoE], batch: ECGBatch) -> float:
    started = time.perf_counter()
    for model in models:
        _predict(model, batch)
    return time.perf_counter() - started
