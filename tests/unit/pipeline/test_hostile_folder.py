"""A folder of damaged files goes through the whole of prepare: nothing crashes, each is named, the good ones are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from damaged_records import write_damaged, write_directory_loops, write_good
from ecgmoe.pipeline.schema import signals_of
from prepared_examples import prepare_here


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_hostile_folder(tmp_path: Path) -> None:
    root = tmp_path / "records"
    good = write_good(root, 36, 7)
    damaged = write_damaged(root, 5, 7)
    write_directory_loops(root)
    assert len(damaged) >= 300
    prepare_here(root, tmp_path / "data", dataset="wfdb")

    labels = pq.read_table(tmp_path / "data" / "labels.parquet").to_pylist()
    places = {str(root / row["path"]): (row["shard"], row["row"]) for row in labels}
    assert set(places) == {record.path for record in good}
    shards = [
        signals_of(pq.read_table(path, columns=["signal"])["signal"])
        for path in sorted((tmp_path / "data" / "records").iterdir())
    ]
    for record in good:
        shard, row = places[record.path]
        assert np.array_equal(shards[shard][row], record.microvolt), record.path

    excluded = pq.read_table(tmp_path / "data" / "exclusions.parquet").to_pylist()
    assert all(row["reason"] for row in excluded)
    named = {row["path"] for row in excluded}
    # A folder whose name ends in .hea is a folder to search.
    listed = [record for record in damaged if record.kind != "header is a directory"]
    missing = [record for record in listed if _printable(record.path, root) not in named]
    assert not missing, missing[:3]

    page = (tmp_path / "data" / "card.html").read_text()
    assert "<script" not in page, "a file name reached the page unescaped"


def _printable(path: str, root: Path) -> str:
    return str(Path(path).relative_to(root)).encode("utf-8", "backslashreplace").decode()
