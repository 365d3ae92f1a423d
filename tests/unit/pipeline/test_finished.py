"""A finished prepare is skipped while nothing has changed, and not a moment longer. No Ray: every shard is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from damaged_records import write_good
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.pipeline.config import PrepareConfig
from ecgmoe.pipeline.prepare import prepare
from ecgmoe.pipeline.store import Store
from prepared_examples import prepare_here

NOTHING_TO_DO = "is finished and its tables are unchanged: nothing to do"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of six own records."""
    write_good(tmp_path / "raw", 6, 3)
    return tmp_path


def with_csv(folder: Path, sexes: str = "010101") -> PrepareConfig:
    rows = "".join(f"good/{i:03d},{sex}\n" for i, sex in enumerate(sexes))
    (folder / "labels.csv").write_text(f"path,sex_female\n{rows}")
    return PrepareConfig(index=IndexOptions(csv=str(folder / "labels.csv")))


def again(folder: Path, config: PrepareConfig | None = None) -> dict[str, Any]:
    return prepare("wfdb", str(folder / "raw"), str(folder / "data"), config=config)


def test_a_folder_without_table_is_skipped_until_a_record_is_added(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_here(own / "raw", own / "data", dataset="wfdb")
    manifest = again(own)
    assert NOTHING_TO_DO not in capsys.readouterr().out
    assert again(own) == manifest
    assert NOTHING_TO_DO in capsys.readouterr().out
    (own / "raw" / "notes.txt").touch()
    again(own)
    assert NOTHING_TO_DO in capsys.readouterr().out, "a file that is no recording changes nothing"
    for suffix in (".hea", ".dat"):
        shutil.copy(own / "raw" / "good" / f"000{suffix}", own / "raw" / f"new{suffix}")
    with pytest.raises(ValueError, match="list of records has changed, 6 -> 7 studies"):
        again(own)


def test_compression_is_nothing_to_do_again(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_here(own / "raw", own / "data", dataset="wfdb")
    again(own)
    capsys.readouterr()
    again(own, PrepareConfig(compression="lz4"))
    assert NOTHING_TO_DO in capsys.readouterr().out
    # Of a folder that was prepared before there was the option.
    store = Store(own / "data")
    inputs = store.read_json("inputs.json")
    del inputs["config"]["compression"]
    store.write_json("inputs.json", inputs)
    again(own)
    assert NOTHING_TO_DO in capsys.readouterr().out


def test_a_changed_csv_is_noticed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = with_csv(own)
    prepare_here(own / "raw", own / "data", config, dataset="wfdb")
    again(own, config)
    before = (own / "data" / "labels.parquet").read_bytes()
    again(own, config)
    assert NOTHING_TO_DO in capsys.readouterr().out
    again(own, with_csv(own, "111111"))
    assert NOTHING_TO_DO not in capsys.readouterr().out
    assert (own / "data" / "labels.parquet").read_bytes() != before


def test_a_csv_that_comes_later_changes_labels_alone_and_other_records_are_refused(own: Path) -> None:
    prepare_here(own / "raw", own / "data", dataset="wfdb")
    again(own, with_csv(own))
    assert pq.read_table(own / "data" / "labels.parquet")["sex_female"].null_count == 0
    with pytest.raises(ValueError, match=r"configuration \(index\.csv: null -> \".*labels\.csv\"\): choose"):
        again(own, with_csv(own, "0101"))


def test_relabel_of_an_empty_folder_binds_nothing(own: Path) -> None:
    with pytest.raises(ValueError, match=r"data holds no prepared records: run without --relabel first"):
        prepare("wfdb", str(own / "raw"), str(own / "data"), relabel=True)
    assert not (own / "data").exists()


def test_a_torn_shard_is_noticed_after_the_end_and_prepared_again(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_here(own / "raw", own / "data", dataset="wfdb")
    again(own)
    shard = own / "data" / "records" / "shard-00000.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])

    def without_ray(stage: str, shards: list[pa.Table], step: Any, **_: Any) -> Iterator[pa.Table]:
        for table in shards:
            yield step[0](table)

    monkeypatch.setattr("ecgmoe.pipeline.prepare.map_shards", without_ray)
    again(own)
    assert f"{shard} is torn: preparing it again" in capsys.readouterr().out
    assert shard.read_bytes() == content
    again(own)
    assert NOTHING_TO_DO in capsys.readouterr().out
