"""How fast batches come from prepared data, beside a torch DataLoader that reads the WFDB files themselves.

Reading WFDB on the fly is what most ECG repositories do: a Dataset that calls wfdb.rdsamp for each item. Both sides give every
record once, in random order, as batches of all leads at 500 Hz; ours also R peaks and labels, and the peer's are in millivolt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import wfdb
from torch.utils.data import DataLoader, Dataset

from ecgmoe.benchmark.paired import interleaved, ratio
from ecgmoe.config import RunConfig
from ecgmoe.pipeline.prepared import EVERY_SPLIT, PreparedData, row_groups, split_rows
from ecgmoe.training.loader import THREADS, BatchReader
from ecgmoe.training.plan import epoch_plan


class OnTheFly(Dataset[torch.Tensor]):
    """Reads a record when it is asked for it.

    Args:
        paths: of the records, without extension.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        """(12, 5000) float32 millivolt, nan as 0."""
        signal, _ = wfdb.rdsamp(self.paths[index])
        return torch.from_numpy(np.nan_to_num(signal.T.astype(np.float32)))


def loader_benchmark(
    data: str, root: str, config: RunConfig, *, workers: tuple[int, ...] = (0, 2), pairs: int = 10
) -> dict[str, Any]:
    """Alternate one epoch of ours, in one process with its two threads that read ahead, with one of the peer's.

    Args:
        data: prepared folder.
        root: the WFDB files that it was prepared from.
        config: whose tasks, global batch and slots are used.
        workers: processes of the DataLoader; 0 reads in the caller's.
        pairs: rounds that count; the first one, which fills the page cache, does not.

    Returns:
        Records per second of each (medians), and how many times as fast ours is.
    """
    torch.set_num_threads(1)
    prepared = PreparedData(data)
    labels = prepared.labels()
    paths = [f"{root}/{path}" for path in labels["path"].to_pylist()]
    rows = split_rows(labels, EVERY_SPLIT)
    ways: list[Callable[[], float]] = [partial(_ours, prepared, rows, config)]
    ways += [partial(_peer, paths, config.training.global_batch, count) for count in workers]
    ours, *peers = interleaved(ways, pairs)
    return {
        "records": len(rows),
        "batch": config.training.global_batch,
        "pairs": pairs,
        "records_per_second": statistics.median(ours),
        "on_the_fly": {
            f"{count}_workers": {
                "records_per_second": statistics.median(found),
                "times_as_fast": asdict(ratio(ours, found)),
            }
            for count, found in zip(workers, peers, strict=True)
        },
    }


def _ours(data: PreparedData, rows: npt.NDArray[np.int64], config: RunConfig) -> float:
    """Records per second of an epoch, with all that an epoch begins with."""
    training = config.training
    started = time.perf_counter()
    labels = data.labels()
    plan = epoch_plan(
        rows,
        row_groups(labels)[rows],
        global_batch=training.global_batch,
        slots=training.slots,
        seed=training.seed,
        epoch=0,
    )
    reader = BatchReader(data, labels, config.task_table(), 2 * training.slots + THREADS)
    batches = (plan.batch(index, 1).share(0) for index in range(len(plan.rows)))
    records = sum(len(batch.study_id) for batch in reader.ahead(batches, training.read_ahead))
    return records / (time.perf_counter() - started)


def _peer(paths: list[str], batch: int, workers: int) -> float:
    started = time.perf_counter()
    loader = DataLoader(OnTheFly(paths), batch_size=batch, shuffle=True, num_workers=workers, drop_last=True)
    records = sum(len(signals) for signals in loader)
    return records / (time.perf_counter() - started)
