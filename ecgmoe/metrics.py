"""What stages and training tell Prometheus, through the endpoint that each of Ray's nodes has.

Labels are the stage, the run, the task and the rank: never a patient, a study or a path. Without Ray nothing happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, called ray_ecgmoe_<name> by Prometheus (ray_ecgmoe_<name>_total where it counts).

    Attributes:
        text: what it is, with its unit.
        labels: that every value has.
        counts: it only grows; else it is the last value.
    """

    text: str
    labels: tuple[str, ...]
    counts: bool = False


RUN, RANK = ("run",), ("run", "rank")
METRICS = {
    "stage_records": Metric(text="Records that a stage has done", labels=("stage",), counts=True),
    "stage_records_to_do": Metric(text="Records that a stage has still to do", labels=("stage",)),
    "training_step": Metric(text="Optimiser steps so far", labels=RUN),
    "training_steps_to_do": Metric(text="Optimiser steps that are left", labels=RUN),
    "training_epoch": Metric(text="Epoch, from 1", labels=RUN),
    "training_loss": Metric(text="Mean loss since the last logged step", labels=("run", "task")),
    "training_records_per_second": Metric(text="Records trained on per second, all ranks together", labels=RUN),
    "training_gradient_norm": Metric(text="Norm of the whole gradient before clipping", labels=RUN),
    "training_dead_experts": Metric(text="Experts that no task gives 1 % of its weight", labels=RUN),
    "training_validation_score": Metric(text="Score of the last validation, higher is better", labels=RUN),
    "training_data_wait_share": Metric(text="Share of a step's time that a rank waited for data, 0 to 1", labels=RANK),
    "training_memory_bytes": Metric(text="Most bytes that a rank has held (GPU, else main memory)", labels=RANK),
    "training_checkpoint_seconds": Metric(text="Seconds that a rank spent on its last checkpoint", labels=RANK),
    "training_resumed": Metric(text="Starts from a checkpoint", labels=RUN, counts=True),
}


def put(name: str, value: float | None, **labels: str | int) -> None:
    """Set a metric of `METRICS` to a value; None changes nothing."""
    if value is not None and (there := _metric(name)) is not None:
        there.set(float(value), _strings(labels))


def add(name: str, amount: float, **labels: str | int) -> None:
    """Add to a metric of `METRICS` that counts."""
    if amount > 0 and (there := _metric(name)) is not None:
        there.inc(float(amount), _strings(labels))


def _strings(labels: dict[str, str | int]) -> dict[str, str]:
    return {key: str(value) for key, value in labels.items()}


def _metric(name: str) -> Any:
    """Ray's metric; None in a process that has not joined a Ray."""
    import ray

    return _made(name) if ray.is_initialized() else None


@cache
def _made(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge

    metric = METRICS[name]
    return (Counter if metric.counts else Gauge)(f"ecgmoe_{name}", metric.text, metric.labels)
