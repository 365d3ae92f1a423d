"""Where a study goes is a function of its id, and labels join by id, not by position."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgmoe.datasets.schema import STUDY_SCHEMA
from ecgmoe.pipeline.labels import label_table
from ecgmoe.pipeline.shards import default_shard_rows, mix64, plan_shards


def an_index(ids: list[int], rr: list[float | None], source: str) -> pa.Table:
    columns = {field.name: [None] * len(ids) for field in STUDY_SCHEMA}
    columns |= {"study_id": ids, "patient_id": ids, "path": [f"r{i}" for i in ids], "split": ["train"] * len(ids)}
    columns |= {"rr_label_ms": rr, "rr_source": [source] * len(ids), "age_years": [float(i) for i in ids]}
    return pa.table([pa.array(columns[field.name], field.type) for field in STUDY_SCHEMA], schema=STUDY_SCHEMA)


def test_shards_hold_every_study_once_whatever_the_order_of_the_index() -> None:
    ids = list(range(1000, 1300))
    index = an_index(ids, [None] * 300, "detected")
    shards = plan_shards(index, 64)
    backwards = plan_shards(index.take(pa.array(range(299, -1, -1))), 64)
    assert [len(shard) for shard in shards] == [64, 64, 64, 64, 44]
    assert sorted(i for shard in shards for i in shard["study_id"].to_pylist()) == ids
    assert shards == backwards


def test_the_hash_is_splitmix64() -> None:
    # First outputs of splitmix64 seeded with 0 (the reference implementation of Sebastiano Vigna).
    assert mix64(np.array([0]))[0] == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(("records", "rows"), [(1, 32), (160, 32), (1400, 96), (800_035, 2048)])
def test_default_shard_rows(records: int, rows: int) -> None:
    assert default_shard_rows(records) == rows


def stored(ids: list[int], rr: list[float | None]) -> pa.Table:
    rows = np.arange(len(ids), dtype=np.int32)
    return pa.table({"study_id": ids, "rr_ms": pa.array(rr, pa.float32()), "shard": rows * 0, "row": rows})


def test_labels_join_by_study_id_and_flag_a_disagreeing_rr() -> None:
    index = an_index([5, 6, 7, 8], [800.0, 900.0, None, 1000.0], "machine")
    labels = label_table(index, stored([8, 5, 7], [1000.0, 950.0, 700.0]))
    assert labels["study_id"].to_pylist() == [8, 5, 7]
    assert labels["age_years"].to_pylist() == [8.0, 5.0, 7.0]
    assert labels["rr_label_ms"].to_pylist() == [1000.0, 800.0, None]
    assert labels["rr_disagrees"].to_pylist() == [False, True, None]
    assert labels["row"].to_pylist() == [0, 1, 2]


def test_the_detectors_rr_stands_in_only_where_the_dataset_says_so() -> None:
    index = an_index([1, 2, 3], [None, None, None], "detected")
    labels = label_table(index, stored([3, 2, 1], [812.0, None, 5000.0]))
    # 5000 ms is outside 200..3000 and is no label.
    assert labels["rr_label_ms"].to_pylist() == [812.0, None, None]
