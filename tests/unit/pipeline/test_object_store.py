"""A store on S3: whole objects or none, no stale listings, and every failure in one line with its remedy."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgmoe.datasets.folder import list_records
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import find_record, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault
from ecgmoe.pipeline.store import StorageError, Store, file_stamp
from ecgmoe.s3 import ObjectStore
from object_store import BUCKET, free_port, object_store, objects, uploads
from small_records import an_ecg, write_record

PART = 50 << 20
"""Bytes that s3fs sends as one part."""


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with object_store(tmp_path_factory.mktemp("s3") / "log") as environment:
        yield environment


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    """A folder of its own."""
    return Store(f"s3://{BUCKET}/{request.node.name}")


@pytest.mark.parametrize("size", [0, 1000, PART + 1000])
def test_an_aborted_write_leaves_nothing(store: Store, size: int) -> None:
    with pytest.raises(RuntimeError, match="torn"), store.writing("data.bin") as file:
        file.write(bytes(size))
        if size > PART:
            assert len(uploads()) == 1
        raise RuntimeError("torn")
    del file
    assert not store.exists("data.bin")
    assert uploads() == []


def test_an_aborted_rewrite_keeps_the_old_object(store: Store) -> None:
    store.write_json("a.json", {"old": True})
    with pytest.raises(KeyboardInterrupt), store.writing("a.json") as file:
        file.write(b"{")
        raise KeyboardInterrupt
    assert store.read_json("a.json") == {"old": True}


def test_what_a_killed_writer_uploaded_is_removed_and_nothing_else(store: Store) -> None:
    mine, other = Store(f"{store.root}/mine"), Store(f"{store.root}/mine-not")
    mine.write_text("whole.txt", "x")
    for folder in (mine, other):
        file = ObjectStore().open(f"{folder.root}/half.bin", "wb", block_size=5 << 20)
        file.write(bytes(6 << 20))
        # As a process that dies: nothing is closed.
        file.closed = True
    assert len(uploads()) == 2
    mine.remove_partial()
    assert [key.split("/")[-2] for key in uploads()] == ["mine-not"]
    assert mine.names() == ["whole.txt"]
    other.remove_partial()


def test_what_another_process_wrote_is_seen(store: Store) -> None:
    store.write_text("mine", "x")
    assert store.names() == ["mine"]
    assert not store.exists("theirs")
    code = f"from ecgmoe.pipeline.store import Store; Store({store.root!r}).write_text('theirs', 'xyz')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert store.sizes() == {"mine": 1, "theirs": 3}
    assert store.exists("theirs")
    assert store.read_text("theirs") == "xyz"
    stamp = file_stamp(store.path("theirs"))
    store.write_text("theirs", "abc")
    assert file_stamp(store.path("theirs")) != stamp


def test_folders_and_tables(store: Store) -> None:
    assert (store.exists(), store.names()) == (False, [])
    table = pa.table({"a": range(100_000)})
    with store.writing("records/t.parquet") as file:
        pq.write_table(table, file, row_group_size=10_000)
    with store.parquet("records/t.parquet") as opened:
        assert opened.read_row_group(3)["a"][0].as_py() == 30_000
    store.write_text("records-old/x", "x")
    assert store.exists()
    assert store.names() == ["records", "records-old"]
    assert len(store.sha256("records/t.parquet")) == 64
    store.remove("records")
    store.remove("nothing")
    assert store.names() == ["records-old"]
    # Some tools mark a folder by an object with its name.
    ObjectStore().call_s3("put_object", Bucket=BUCKET, Key=f"{store.root.removeprefix(f's3://{BUCKET}/')}/", Body=b"")
    assert store.names() == ["records-old"]


def test_a_record_is_found_and_read(store: Store, tmp_path: Path) -> None:
    write_record(tmp_path, "one", an_ecg(1))
    for name in ("one.hea", "one.dat"):
        with store.writing(f"deep/{name}") as file:
            file.write((tmp_path / name).read_bytes())
    assert list_records(store.root).paths == ["deep/one"]
    record = store.path("deep/one")
    assert [find_record(name) for name in (record, f"{record}.hea", f"{record}.dat")] == [record] * 3
    assert find_record(store.path("deep/two")) is None
    read = read_usable(record, ReaderOptions(), QualityPolicy())
    assert (read.signal == read_usable(str(tmp_path / "one"), ReaderOptions(), QualityPolicy()).signal).all()
    with pytest.raises(RecordFault, match=r"two\.hea cannot be read: no such file"):
        read_usable(store.path("deep/two"), ReaderOptions(), QualityPolicy())
    # That nobody can reach it is no fault of a record, which would be listed as unusable.
    for gone in ("s3://absent/one", "s3://absent/one.mat"):
        with pytest.raises(StorageError, match="there is no bucket absent"):
            read_usable(gone, ReaderOptions(), QualityPolicy())


def test_a_missing_bucket_is_named_and_not_made() -> None:
    store = Store("s3://absent/run")
    for call in (
        lambda: store.exists("a"),
        store.names,
        lambda: store.read_json("a"),
        lambda: store.write_text("a", "x"),
    ):
        with pytest.raises(
            StorageError, match=r"s3://absent/run.*there is no bucket absent at http://127.*: create it"
        ):
            call()
    assert "absent" not in ObjectStore().ls("")


def test_a_missing_and_a_torn_object_are_named(store: Store) -> None:
    with pytest.raises(StorageError, match=r"a\.json is missing"):
        store.read_json("a.json")
    store.write_text("a.parquet", "PAR1 and no end")
    with pytest.raises(StorageError, match=r"a\.parquet is not a whole Parquet file"), store.parquet("a.parquet"):
        pass


def test_a_bad_name_is_told() -> None:
    with pytest.raises(StorageError, match='Invalid bucket name "my data": correct the URL'):
        Store("s3://my data/x").exists("a")


def test_refused_credentials(server: dict[str, str], store: Store) -> None:
    def check(after: str) -> None:
        """How many requests the server takes before it asks who it is."""
        url = f"{server['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, after.encode(), plain)).close()

    check("0")
    try:
        for call in (lambda: store.exists("a"), store.names, lambda: store.write_text("a", "x")):
            with pytest.raises(StorageError, match=r"refuses it \(.*\): check AWS_ACCESS_KEY_ID, AWS_SECRET"):
                call()
    finally:
        check("inf")


@pytest.fixture
def no_cached_connection() -> Iterator[None]:
    ObjectStore.clear_instance_cache()
    yield
    ObjectStore.clear_instance_cache()


@pytest.mark.usefixtures("no_cached_connection")
def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(
        StorageError, match=r"the object store at http://127.*does not answer .*: check AWS_ENDPOINT_URL"
    ):
        Store(f"s3://{BUCKET}/x").write_text("a", "x")


@pytest.mark.usefixtures("no_cached_connection")
def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match=r"no credentials for it .*: set AWS_ACCESS_KEY_ID"):
        Store(f"s3://{BUCKET}/x").exists("a")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ecgmoe.s3")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StorageError, match=r"^s3://b/x needs the package s3fs, .*: install the extra s3 on every node"):
        Store("s3://b/x")


def test_an_unknown_kind_of_url_is_told() -> None:
    with pytest.raises(StorageError, match=r"s4://b/x: Protocol not known: s4: give a local path or s3://"):
        Store("s4://b/x")
    assert "s4" not in fsspec.available_protocols()


def test_nothing_else_was_left() -> None:
    assert not [key for key in objects() if "half" in key or "data.bin" in key]
