"""Validation: every record exactly once, for any number of workers, with the same metrics on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.pipeline.prepared import split_rows
from ecgmoe.tasks import Task
from ecgmoe.training.collectives import gather_objects
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.loader import BatchReader


def validate(
    engine: Any, reader: BatchReader, labels: pa.Table, tasks: Sequence[Task], config: TrainingConfig
) -> dict[str, Any]:
    """Metrics of the validation split; every rank must call it.

    The last batches are padded with a repeated record, because under ZeRO 3 every rank must make as many passes; what the
    padding predicts is thrown away.
    """
    rows = split_rows(labels, "validation")
    world, rank, size = dist.get_world_size(), dist.get_rank(), config.global_batch // config.num_workers
    if not len(rows):
        raise ValueError("the validation split has no record: prepare more records or choose other split shares")
    passes = -(-len(rows) // (world * size))
    padded = np.resize(rows, passes * world * size).reshape(world, passes, size)
    engine.eval()
    parts = []
    # Not inference_mode: what ZeRO 3 gathers there stays gathered, and a later training step could not use it.
    with torch.no_grad():
        for batch in reader.ahead(padded[rank], config.read_ahead):
            batch = batch.to(engine.device)
            output = engine(batch)
            parts.append(
                {name: value.cpu().numpy() for name, value in engine.module.in_units(output.predictions).items()}
            )
    engine.train()
    local = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    ranks = gather_objects(local)
    values = {name: np.concatenate([each[name] for each in ranks])[: len(rows)] for name in local}
    table = prediction_table(values, labels.take(pa.array(rows)), tasks)
    constants = Constants.fit(labels.take(pa.array(split_rows(labels, "train"))), tasks)
    return evaluate(table, constants, tuple(tasks), intervals=False)
