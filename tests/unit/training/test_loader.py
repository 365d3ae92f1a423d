"""Batches that threads read ahead: in order, those that are read one by one, as many reads, and faults are raised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecgmoe.model.batch import ECGBatch
from ecgmoe.pipeline.prepared import PreparedData, RowGroup, row_groups
from ecgmoe.pipeline.store import StorageError
from ecgmoe.tasks import task_table
from ecgmoe.training.loader import CHANGING, THREADS, BatchReader
from ecgmoe.training.plan import epoch_plan
from prepared_examples import simulated_and_prepared

SLOTS, BATCH = 4, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData(str(simulated_and_prepared(tmp_path_factory.mktemp("loader"), patients=80, studies=300)))


def reader_of(data: PreparedData, slots: int = SLOTS) -> BatchReader:
    return BatchReader(data, data.labels(), task_table(), 2 * slots + THREADS)


def epoch(data: PreparedData, slots: int = SLOTS) -> list[np.ndarray]:
    labels = data.labels()
    rows = np.arange(len(labels))
    plan = epoch_plan(rows, row_groups(labels), global_batch=BATCH, slots=slots, seed=0, epoch=0)
    return [plan.batch(index, 1).share(0) for index in range(len(plan.rows))]


def test_they_are_those_read_one_by_one(data: PreparedData) -> None:
    alone, ahead, batches = reader_of(data), reader_of(data), epoch(data)
    assert len(batches) > 10
    for rows, batch in zip(batches, ahead.ahead(batches, 4), strict=True):
        expected = alone.read(rows)
        assert batch.signal.equal(expected.signal)
        assert batch.r_peaks.equal(expected.r_peaks)
        assert batch.study_id.equal(expected.study_id)
        assert batch.labels.keys() == expected.labels.keys()
        for name, values in batch.labels.items():
            np.testing.assert_array_equal(values, expected.labels[name])


@pytest.mark.parametrize("slots", [1, 2, SLOTS])
def test_threads_add_no_reads(data: PreparedData, monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    """Few slots, so that row groups are given up, and one that lies across two slots is read for each."""
    read: list[tuple[int, int]] = []
    original = PreparedData.row_group

    def counted(self: PreparedData, shard: int, group: int, *more: object) -> RowGroup:
        read.append((shard, group))
        return original(self, shard, group, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(PreparedData, "row_group", counted)
    batches = epoch(data, slots)
    one = reader_of(data, slots)
    for rows in batches:
        one.read(rows)
    alone = len(read)
    assert alone >= len(set(read)) > 2 * slots + THREADS or slots == SLOTS
    read.clear()
    assert len(list(reader_of(data, slots).ahead(batches, 4))) == len(batches)
    assert len(read) == alone


def test_a_fault_is_raised_where_the_batch_is_asked_for(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(*_: object) -> RowGroup:
        raise StorageError("shard-00000.parquet is torn")

    reader = reader_of(data)
    monkeypatch.setattr(PreparedData, "row_group", torn)
    with pytest.raises(StorageError, match="is torn"):
        next(iter(reader.ahead(epoch(data), 4)))
    monkeypatch.undo()
    # Nothing of it is kept.
    assert len(next(iter(reader.ahead(epoch(data), 4))).study_id) == BATCH


def test_the_time_of_changes_is_told_apart(data: PreparedData) -> None:
    def change(batch: ECGBatch) -> ECGBatch:
        return replace(batch, signal=-batch.signal)

    reader = reader_of(data)
    list(reader.ahead(epoch(data), 4, change))
    spent = reader.clock.take()
    assert spent[CHANGING] > 0
    assert set(spent) == set(reader.stages)
