"""Steps of the real training loop in a process group, without Ray."""

from __future__ import annotations

from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import to_dict
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.training.fit_statistics import training_statistics
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.link import Alone
from ecgmoe.training.plan import GlobalBatch
from ecgmoe.training.watch import Watch


def train_some(
    jobs: list[dict[str, Any]],
    steps: int,
    *,
    hidden: float = 0.0,
    counts: tuple[int, ...] | None = None,
    gradients: bool = False,
) -> list[dict[str, Any]]:
    """So many steps of each job in one process group; call it on every rank.

    Args:
        jobs: as `job_of` makes them.
        steps: of each.
        hidden: share of the labels that are taken away at random, the same ones in every job.
        counts: records of each rank, where they are not to have as many.
        gradients: return those of the first step.

    Returns:
        By job: losses and gradient norms of each step, the state before and after, the names of what trains, and the
        gradients by name.
    """
    from ecgmoe.training.checkpoint import full_state
    from ecgmoe.training.collectives import sum_over_ranks
    from ecgmoe.training.engine import destroy
    from ecgmoe.training.worker import Worker

    results = []
    for job in jobs:
        handed = WorkerJob(**job)
        worker = Worker(handed, Watch(None, Store(handed.run), 0, 1e9), Alone())
        hide_labels(worker.reader.labels, hidden)
        start = full_state(worker.engine)
        kept = keep_gradients(worker.engine) if gradients else {}
        losses, norms = [], []
        epochs = (worker.batches(worker.plan(epoch), epoch, 0) for epoch in count())
        for whole, batch in islice(chain.from_iterable(epochs), steps):
            if counts:
                whole = GlobalBatch(rows=whole.rows, counts=counts)
                batch = worker.reader.read(whole.share(worker.rank))
            parts = worker.step(batch, whole)
            losses.append(sum_over_ranks(torch.stack(list(parts.values()))).tolist())
            # At stage 0 DeepSpeed clips without telling the norm.
            norm = worker.engine.get_global_grad_norm()
            norms.append(None if norm is None else float(norm))
        trained = [name for name, parameter in worker.engine.module.named_parameters() if parameter.requires_grad]
        state = full_state(worker.engine)
        result = {"losses": losses, "norms": norms, "start": start, "state": state, "trained": trained}
        results.append({**result, "gradients": kept})
        destroy(worker.engine)
    return results


def hide_labels(labels: dict[str, np.ndarray], share: float) -> None:
    """Take labels away at random, task by task (in place)."""
    generator = np.random.default_rng(0)
    for values in labels.values():
        values[generator.random(len(values)) < share] = np.nan


def keep_gradients(engine: Any, at: int = 0) -> dict[str, Tensor]:
    """A dict that fills with the whole gradients of one of the engine's steps, before they are clipped."""
    from deepspeed.utils import safe_get_full_grad

    kept: dict[str, Tensor] = {}
    step = engine.step

    def step_and_keep() -> None:
        if engine.is_gradient_accumulation_boundary() and engine.global_steps == at:
            for name, parameter in engine.module.named_parameters():
                gradient = safe_get_full_grad(parameter) if parameter.requires_grad else None
                if gradient is not None:
                    kept[name] = gradient.detach().cpu().clone()
        step()

    engine.step = step_and_keep
    return kept


def job_of(config: RunConfig, data: Path) -> dict[str, Any]:
    """What the driver would hand to the workers."""
    prepared = PreparedData(str(data))
    statistics = training_statistics(prepared, prepared.labels(), config)
    return {
        "config": to_dict(config),
        "data": str(data),
        "run": str(data.parent / "run"),
        "features": {},
        "statistics": to_dict(statistics),
        "tracking_uri": f"sqlite:///{data.parent}/mlflow.db",
        "mlflow_run_id": "unused",
    }


def optimizer_state(configs: list[RunConfig]) -> list[dict[str, Any]]:
    """What the optimiser of this rank really holds after a step of each configuration; call it on every rank.

    Returns:
        By configuration: elements of its state (of moments, without counters) and of DeepSpeed's master weights, elements
        of all and of trained parameters, and how many frozen parameters have a gradient.
    """
    from ecgmoe.benchmark.training_memory import NoiseTraining
    from ecgmoe.training.engine import destroy

    results = []
    for config in configs:
        training = NoiseTraining(config)
        engine, frozen = training.engine, [p for p in training.engine.module.parameters() if not p.requires_grad]
        counted: list[int] = []
        # Looked at before the step clears the gradients.
        whole_step = engine.step

        def step(engine: Any = engine, frozen: Any = frozen, counted: Any = counted, go: Any = whole_step) -> None:
            counted.append(sum(parameter.grad is not None for parameter in frozen))
            go()

        engine.step = step
        training.step()
        basic = engine.optimizer if config.training.zero_stage == 0 else engine.optimizer.optimizer
        master = {
            0: [],
            1: getattr(engine.optimizer, "single_partition_of_fp32_groups", []),
            2: getattr(engine.optimizer, "single_partition_of_fp32_groups", []),
            3: getattr(engine.optimizer, "fp32_partitioned_groups_flat", []),
        }[config.training.zero_stage]
        state = [value for each in basic.state.values() for value in each.values() if isinstance(value, Tensor)]
        results.append(
            {
                "state": sum(value.numel() for value in state if value.ndim),
                "master": sum(partition.numel() for partition in master),
                "parameters": training.sizes.parameters,
                "trained": training.sizes.trained,
                "frozen_with_gradient": sum(counted),
            }
        )
        destroy(engine)
    return results
