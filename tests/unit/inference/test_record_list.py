"""Which records a folder, a table of paths or a name stand for, and what is wrong with a table."""

from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgmoe.datasets.schema import DatasetError
from ecgmoe.filesystem import StorageError
from ecgmoe.inference.record_list import list_source


def found(source: str | Path) -> dict[str, str]:
    """Record by path, in their order."""
    table = list_source(str(source)).records
    return dict(zip(table["path"].to_pylist(), table["record"].to_pylist(), strict=True))


def written(folder: Path, name: str, paths: list[str | None]) -> Path:
    """A table of paths with another column."""
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"x": range(len(paths)), "path": pa.array(paths, pa.string())}), folder / name)
    else:
        text = "x,path\n" + "".join(f'{number},"{path or ""}"\n' for number, path in enumerate(paths))
        content = text.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz", "list.parquet"])
def test_a_table_of_paths(tmp_path: Path, name: str) -> None:
    paths = ["sub/b.hea", "/data/visit.1.dat", "s3://bucket/c", "a", "file:///data/d.hea", "../e", "f.mat", "ä,ö"]
    table = written(tmp_path, name, paths)
    listed = list_source(str(table))
    assert found(table) == {
        "../e": f"{tmp_path}/../e",
        "/data/visit.1.dat": "/data/visit.1",
        "a": f"{tmp_path}/a",
        "f.mat": f"{tmp_path}/f.mat",
        "file:///data/d.hea": "file:///data/d",
        "s3://bucket/c": "s3://bucket/c",
        "sub/b.hea": f"{tmp_path}/sub/b",
        "ä,ö": f"{tmp_path}/ä,ö",
    }
    assert list(found(table)) == sorted(paths)
    assert listed.root == listed.local == str(tmp_path)
    assert not listed.excluded


def test_a_table_names_what_every_node_has_to_see(tmp_path: Path) -> None:
    """A table on the driver's own disk may list URLs alone."""
    assert list_source(str(written(tmp_path, "a.csv", ["s3://bucket/a", "s3://bucket/b"]))).local is None
    absolute = list_source(str(written(tmp_path, "b.csv", ["s3://bucket/a", "/data/b"])))
    assert absolute.root is None
    assert absolute.local == "/data/b"


def test_a_table_on_an_object_store_names_records_beside_it() -> None:
    with fsspec.open("memory://lists/a.csv", "w") as file:
        file.write("path\nb\n/local/c\n")
    listed = list_source("memory://lists/a.csv")
    assert found("memory://lists/a.csv") == {"b": "memory://lists/b", "/local/c": "/local/c"}
    assert listed.root == "memory://lists"
    assert listed.local == "/local/c"


def test_large_and_coded_texts_are_paths_too(tmp_path: Path) -> None:
    for number, column in enumerate(
        (pa.array(["b", "a"], pa.large_string()), pa.array(["b", "a"]).dictionary_encode())
    ):
        table = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"path": column}), table)
        assert list(found(table)) == ["a", "b"]


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([], "lists no record: its column path is empty"),
        (["a", None], "row {second} has no path: fill it in, or leave the row out"),
        (["a", " "], "row {second} has no path"),
        (["a", "b", "a"], "'a' is in row {first} and again in row {third}: list each record once"),
    ],
)
def test_rows_that_cannot_be_meant(tmp_path: Path, name: str, paths: list[str | None], reason: str) -> None:
    first = 2 if name.endswith(".csv") else 1
    rows = {"first": first, "second": first + 1, "third": first + 2}
    with pytest.raises(DatasetError, match=f"{name}.*{reason.format(**rows)}"):
        list_source(str(written(tmp_path, name, paths)))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", "is empty: it needs a header line"),
        ("a.csv", b"file,x\na,1\n", "has no column 'path'; its columns are file, x"),
        ("a.csv", b"path\n\xe4\n", "is not UTF-8 text but Latin-1"),
        ("a.csv", "path\na\n".encode("utf-16"), "not UTF-8 text but UTF-16"),
        ("a.csv", b"path\na,b\n", "cannot be read: .* Quote a cell that holds a comma"),
        ("a.csv", b"path,path\na,b\n", "has the column 'path' more than once"),
        ("a.csv.gz", b"path\na\n", r"a\.csv\.gz cannot be read"),
        ("a.parquet", b"", r"a\.parquet cannot be read: .*: write it again"),
        ("a.parquet", b"PAR1 torn", r"a\.parquet cannot be read: .*: write it again"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=reason):
        list_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"file": ["a"]}, "has no column 'path'; its columns are file"),
        ({"path": [["a"]]}, "cannot be read: .*cast.*: write it again"),
        ({"path": [b"\xff"]}, "cannot be read: .*UTF8.*: write it again"),
    ],
)
def test_parquet_without_texts(tmp_path: Path, columns: dict[str, list[object]], reason: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=reason):
        list_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["absent.csv", "absent.csv.gz", "absent.parquet"])
def test_a_table_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=f"{name} is not there: check its name"):
        list_source(str(tmp_path / name))


def test_a_kind_of_url_that_is_not_known_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nonsense://a: Protocol not known"):
        list_source(str(written(tmp_path, "a.csv", ["b", "nonsense://a"])))


def test_a_folder_may_be_called_like_a_table(tmp_path: Path) -> None:
    (tmp_path / "records.csv").mkdir()
    (tmp_path / "records.csv" / "a.hea").touch()
    assert found(tmp_path / "records.csv") == {"a": f"{tmp_path}/records.csv/a"}


def test_one_record_and_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.hea").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a.hea", "a.dat", f"{tmp_path}/a"):
        assert found(name) == {"a": f"{tmp_path}/a"}
    with pytest.raises(DatasetError, match="there is no absent: give a folder of records, one WFDB record or MATLAB"):
        list_source("absent")
