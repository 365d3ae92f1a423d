"""Rows of the plan to batches, read ahead of the training step."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ecgmoe.model.batch import ECGBatch, pad_r_peaks
from ecgmoe.pipeline.config import ROW_GROUP_ROWS
from ecgmoe.pipeline.prepared import PreparedData, RowGroup, row_groups, split_group
from ecgmoe.stopwatch import Stopwatch
from ecgmoe.tasks import Task

ASSEMBLING, CHANGING = "assembling batches", "augmenting"
THREADS = 2
"""That read ahead: decoding and augmentation free the GIL, so that the second one helps wherever a core is idle."""


class BatchReader:
    """Makes batches of any rows of the labels table; keeps the last row groups that it read.

    Args:
        data: the prepared folder.
        labels: its labels table.
        tasks: whose labels go into the batch.
        groups_kept: row groups in memory (about 4 MB each): at least one per slot that this worker reads, and `THREADS`.
    """

    def __init__(self, data: PreparedData, labels: pa.Table, tasks: Sequence[Task], groups_kept: int) -> None:
        self.data, self.groups_kept, self.clock = data, groups_kept, Stopwatch()
        self.group, self.row = row_groups(labels), labels["row"].to_numpy() % ROW_GROUP_ROWS
        self.study_id, self.patient_id = labels["study_id"].to_numpy(), labels["patient_id"].to_numpy()
        self.labels = label_arrays(labels, tasks)
        self._kept: OrderedDict[int, Future[RowGroup]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, rows: npt.NDArray[np.int64]) -> ECGBatch:
        """The batch of these rows, in this order."""
        groups = self.group[rows].tolist()
        found = {number: self._group(number) for number in dict.fromkeys(groups)}
        parts = [(found[number], row) for number, row in zip(groups, self.row[rows].tolist(), strict=True)]
        with self.clock.on(ASSEMBLING):
            return self._assemble(rows, parts)

    def _assemble(self, rows: npt.NDArray[np.int64], parts: Sequence[tuple[RowGroup, int]]) -> ECGBatch:
        stored = np.array([part.study_id[row] for part, row in parts])
        if not np.array_equal(stored, self.study_id[rows]):
            raise ValueError(
                f"{self.data.store.path('labels.parquet')} does not belong to the records beside it: run "
                "jobs/prepare.py with --relabel"
            )
        features = {
            name: torch.from_numpy(np.stack([part.features[name][row] for part, row in parts]))
            for name in self.data.features
        }
        return ECGBatch(
            signal=torch.from_numpy(np.stack([part.signal[row] for part, row in parts])),
            r_peaks=pad_r_peaks([part.r_peaks[row] for part, row in parts]),
            study_id=torch.from_numpy(self.study_id[rows]),
            patient_id=torch.from_numpy(self.patient_id[rows]),
            labels={name: torch.from_numpy(values[rows]) for name, values in self.labels.items()},
            features=features,
        )

    @property
    def stages(self) -> list[str]:
        """What `clock` tells apart, on every rank in the same order."""
        return [
            "reading signals",
            *(f"reading features of {name}" for name in self.data.features),
            ASSEMBLING,
            CHANGING,
        ]

    def detected_rr_ms(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Median of the detected RR of these rows, NaN where there is none."""
        return np.array([self._group(int(self.group[row])).rr_ms[self.row[row]] for row in rows], dtype=np.float32)

    def _group(self, number: int) -> RowGroup:
        with self._lock:
            found, mine = self._kept.get(number), Future[RowGroup]()
            if found is None:
                self._kept[number] = mine
            self._kept.move_to_end(number)
            while len(self._kept) > self.groups_kept:
                self._kept.popitem(last=False)
        if found is not None:
            # Another thread may still be reading it.
            return found.result()
        try:
            mine.set_result(self.data.row_group(*split_group(number), self.clock))
        except BaseException as error:
            mine.set_exception(error)
            with self._lock:
                self._kept.pop(number, None)
            raise
        return mine.result()

    def ahead(
        self, batches: Iterable[npt.NDArray[np.int64]], depth: int, change: Callable[[ECGBatch], ECGBatch] | None = None
    ) -> Iterator[ECGBatch]:
        """Batches in order, with up to `depth` of them read, and changed, in background threads."""

        def read(rows: npt.NDArray[np.int64]) -> ECGBatch:
            batch = self.read(rows)
            if change is None:
                return batch
            with self.clock.on(CHANGING):
                return change(batch)

        pending: deque[Future[ECGBatch]] = deque()
        with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="read-ahead") as threads:
            try:
                for rows in batches:
                    pending.append(threads.submit(read, rows))
                    if len(pending) > depth:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()


def label_arrays(labels: pa.Table, tasks: Sequence[Task]) -> dict[str, npt.NDArray[np.float32]]:
    """Each task's labels as float32 with NaN where one is missing."""
    return {
        task.name: labels[task.label].cast(pa.float32()).to_numpy(zero_copy_only=False).astype(np.float32)
        for task in tasks
    }
