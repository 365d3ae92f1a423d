"""Statistics of records: those of the model's front end, for the records asked for, a row group at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ecgmoe.evaluation import record_statistics as module
from ecgmoe.evaluation.record_statistics import STATISTICS, record_statistics
from ecgmoe.model.frontend import CHARACTERISTICS
from ecgmoe.pipeline.config import ROW_GROUP_ROWS
from ecgmoe.pipeline.prepared import PreparedData, row_groups
from ecgmoe.training.loader import BatchReader
from prepared_examples import map_here, simulated_and_prepared


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated_and_prepared(tmp_path_factory.mktemp("statistics"), patients=40, studies=90)


@pytest.fixture
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedData:
    monkeypatch.setattr(module, "map_shards", map_here)
    return PreparedData(str(folder))


def test_they_are_the_front_ends_in_the_order_of_the_studies_asked_for(data: PreparedData) -> None:
    labels = data.labels()
    rows = np.random.default_rng(0).permutation(len(labels))[:50]
    values = record_statistics(data, labels["study_id"].to_numpy()[rows])
    assert values.shape == (50, len(STATISTICS)) == (50, 48)
    assert values.dtype == np.float32
    reader = BatchReader(data, labels, (), groups_kept=1)
    for row, value in zip(rows[:5], values, strict=False):
        batch = reader.read(rows[rows == row])
        expected = module.characteristics(batch.signal, batch.r_peaks)[0]
        # Other records beside it: the front end sums each record by itself, so only rounding may differ.
        torch.testing.assert_close(torch.from_numpy(value[: len(CHARACTERISTICS)]), expected)
    detected = reader.detected_rr_ms(rows)
    some = np.isfinite(detected)
    assert values[some, STATISTICS.index("rr_median")] == pytest.approx(detected[some], rel=1e-5)


def test_a_row_group_is_read_once_and_only_where_a_record_is_wanted(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []
    original = PreparedData.row_group

    def counted(self: PreparedData, shard: int, group: int) -> object:
        read.append((shard, group))
        return original(self, shard, group)

    monkeypatch.setattr(PreparedData, "row_group", counted)
    labels = data.labels()
    wanted = labels.slice(0, ROW_GROUP_ROWS + 2)
    record_statistics(data, wanted["study_id"].to_numpy())
    assert len(read) == len(set(read)) == len(np.unique(row_groups(wanted))) < len(np.unique(row_groups(labels)))


def test_no_record_has_no_statistics(data: PreparedData) -> None:
    assert record_statistics(data, np.zeros(0, np.int64)).shape == (0, 48)


def test_a_study_that_is_not_there_is_refused(data: PreparedData) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 studies are not in .*prepared again since"):
        record_statistics(data, np.array([data.labels()["study_id"][0].as_py(), -5]))


def test_labels_of_other_records_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = simulated_and_prepared(tmp_path, patients=20, studies=40, seed=5)
    labels = pq.read_table(other / "labels.parquet")
    position = labels.schema.get_field_index("study_id")
    shifted = pa.array(labels["study_id"].to_numpy() + 1)
    pq.write_table(labels.set_column(position, labels.schema.field(position), shifted), other / "labels.parquet")
    monkeypatch.setattr(module, "map_shards", map_here)
    with pytest.raises(ValueError, match=r"does not belong to the records beside it: run jobs/prepare.py"):
        record_statistics(PreparedData(str(other)), shifted.to_numpy())
