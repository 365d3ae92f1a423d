"""Files appear whole or not at all, and a refused write says where and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ecgmoe.pipeline.store import StorageError, Store, digest_of


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="torn"), store.writing("sub/data.bin") as file:
        file.write(b"half")
        raise RuntimeError("torn")
    assert not store.exists("sub/data.bin")
    assert list((tmp_path / "sub").iterdir()) == []


def test_an_interrupted_rewrite_keeps_the_old_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_json("a.json", {"old": True})
    with pytest.raises(KeyboardInterrupt), store.writing("a.json") as file:
        file.write(b"{")
        raise KeyboardInterrupt
    assert store.read_json("a.json") == {"old": True}


def test_temporary_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".shard-00000.parquet.abc").write_bytes(b"half")
    (tmp_path / "shard-00001.parquet").write_bytes(b"whole")
    assert Store(tmp_path).names() == ["shard-00001.parquet"]


def test_a_full_disk_is_named_with_the_remedy(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        pytest.raises(StorageError, match=r"cannot write .*/x\.bin: the disk is full: free some space"),
        store.writing("x.bin"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="no permission"), Store(tmp_path).writing("x.bin"):
        pass


def test_missing_and_torn_files_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StorageError, match=r"a\.json is missing"):
        store.read_json("a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StorageError, match=r"a\.json is not JSON"):
        store.read_json("a.json")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no end")
    with pytest.raises(StorageError, match=r"a\.parquet is not a whole Parquet file"), store.parquet("a.parquet"):
        pass


def test_an_object_store_works_alike() -> None:
    store = Store("memory://bucket/run")
    with store.writing("sub/x.bin") as file:
        file.write(b"content")
    store.write_json("a.json", [1])
    assert store.read_json("a.json") == [1]
    assert store.names() == ["a.json", "sub"]
    assert store.exists("sub/x.bin")


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_text("whole.txt", "x")
    (tmp_path / ".whole.txt.0123456789abcdef0123456789abcdef").write_text("half")
    (tmp_path / ".keep").write_text("mine")
    store.remove_partial()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep", "whole.txt"]
    (store / "absent").remove_partial()


def test_a_folder_that_cannot_be_created_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/data/a: a part of the path is a file.*choose another"):
        Store(tmp_path / "file" / "data").write_text("a", "x")
    with pytest.raises(StorageError, match=r"cannot write .*: File name too long: choose another folder"):
        Store(tmp_path / ("x" * 300)).write_text("a", "x")
