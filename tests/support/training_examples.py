"""A few steps of the real training loop in a process group, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import to_dict
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.training.fit_statistics import training_statistics
from ecgmoe.training.job import WorkerJob


def train_some(jobs: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """The first steps of each job in one process group; call it on every rank.

    Returns:
        By job: losses and gradient norms of each step, the state before and after, and the names of what trains.
    """
    from ecgmoe.training.checkpoint import full_state
    from ecgmoe.training.engine import sum_over_ranks
    from ecgmoe.training.worker import Worker

    results = []
    for job in jobs:
        worker = Worker(WorkerJob(**job))
        plan = worker.plan(0)
        start = full_state(worker.engine)
        losses, norms = [], []
        for index, batch in worker.batches(plan, 0):
            if index == steps:
                break
            parts = worker.step(batch, plan.batch(index))
            losses.append(sum_over_ranks(torch.stack(list(parts.values()))).tolist())
            # At stage 0 DeepSpeed clips without telling the norm.
            norm = worker.engine.get_global_grad_norm()
            norms.append(None if norm is None else float(norm))
        trained = [name for name, parameter in worker.engine.module.named_parameters() if parameter.requires_grad]
        state = full_state(worker.engine)
        results.append({"losses": losses, "norms": norms, "start": start, "state": state, "trained": trained})
        worker.engine.destroy()
    return results


def job_of(config: RunConfig, data: Path) -> dict[str, Any]:
    """What the driver would hand to the workers."""
    prepared = PreparedData(str(data))
    statistics = training_statistics(prepared, prepared.labels(), config)
    return {
        "config": to_dict(config),
        "data": str(data),
        "features": {},
        "statistics": to_dict(statistics),
        "tracking_uri": f"sqlite:///{data.parent}/mlflow.db",
        "mlflow_run_id": "unused",
    }
