"""Steps whose batches come slowly, and what is said about it."""

from __future__ import annotations

import contextlib
import io
import time
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist


def said_about_waits(root: str, features: dict[str, str], delays: dict[str, float], slow_rank: int) -> list[str]:
    """Two epochs of steps that do nothing for 10 ms each; call it on every rank.

    Args:
        root: prepared folder.
        features: of it, by cached backbone.
        delays: seconds that each reading of a file takes more, by the first folder of its path.
        slow_rank: the rank with these delays.

    Returns:
        The lines that this rank printed.
    """
    from ecgmoe.pipeline.prepared import PreparedData, row_groups, split_rows
    from ecgmoe.tasks import task_table
    from ecgmoe.training.config import TrainingConfig
    from ecgmoe.training.loader import BatchReader
    from ecgmoe.training.plan import epoch_plan
    from ecgmoe.training.progress import Progress
    from ecgmoe.training.routing import RoutingLoad

    rank, world = dist.get_rank(), dist.get_world_size()
    config = TrainingConfig(num_workers=world, global_batch=8, slots=4, log_every=2, read_ahead=1, epochs=2)
    data = PreparedData(root, features)
    labels = data.labels()
    rows = split_rows(labels, "train")
    # One row group in memory for two slots: every batch reads again.
    reader = BatchReader(data, labels, task_table(), 1)
    plan = epoch_plan(rows, row_groups(labels)[rows], global_batch=8, slots=4, seed=0, epoch=0)
    read = data._read

    def slow_read(path: str, *arguments: Any) -> Any:
        time.sleep(delays.get(path.split("/")[0], 0.0) if rank == slow_rank else 0.0)
        return read(path, *arguments)

    printed, steps = io.StringIO(), 6
    with mock.patch.object(data, "_read", slow_read), contextlib.redirect_stdout(printed):
        load = RoutingLoad(["rr"], [], torch.device("cpu"))
        progress = Progress(config, 2 * steps, rank, None, load, reader)
        for epoch in range(2):
            shares = [plan.batch(index, world).share(rank) for index in range(steps)]
            for step, _ in enumerate(progress.waiting_for(reader.ahead(shares, config.read_ahead)), start=1):
                time.sleep(0.01)
                progress.step(epoch, epoch * steps + step, {"rr": torch.zeros(())}, None)
    return printed.getvalue().splitlines()
