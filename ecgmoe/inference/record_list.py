"""Which records are to be predicted: a folder of them, a table of their paths, or one."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.schema import DatasetError
from ecgmoe.datasets.tables import folder_exists, join, read_csv
from ecgmoe.ecg.read import find_record
from ecgmoe.filesystem import StorageError, filesystem, is_local
from ecgmoe.pipeline.store import Store

TABLES = (".csv", ".csv.gz", ".parquet")
PATH = "path"


@dataclass(frozen=True, kw_only=True)
class RecordList:
    """What is to be predicted.

    Attributes:
        records: columns path, as the output calls it, and record, the local path or URL that it is read from; ordered by
            path, each once.
        excluded: (path, reason) of what looks like a record of a folder and is none, ordered.
        root: folder or URL of the records; None where each of them is named in full.
    """

    records: pa.Table
    excluded: tuple[tuple[str, str], ...] = ()
    root: str | None = None

    @property
    def local(self) -> str | None:
        """A path that every node has to see, None where all are URLs."""
        if self.root is not None and is_local(self.root):
            return self.root
        return next((record for record in self.records["record"].to_pylist() if is_local(record)), None)


def list_source(source: str) -> RecordList:
    """Find the records.

    Args:
        source: local path or URL of a folder, which is searched with its subfolders; of one record, with or without its
            extension; or of a CSV or Parquet file with the column path. A path in it is absolute, a URL, or relative to
            the folder of that file, with or without extension; whether there is a record is not looked at here.

    Raises:
        DatasetError: there is no record, or the table cannot be read, lacks a path, or names one twice.
        StorageError: a URL of a kind that is not known.
    """
    if folder_exists(source):
        index = build_index("wfdb", source)
        root = Store(source).root
        paths = index.table[PATH].to_pylist()
        return RecordList(
            records=_table(paths, [join(root, path) for path in paths]),
            excluded=tuple(sorted(index.excluded)),
            root=root,
        )
    if source.endswith(TABLES):
        return _listed(source)
    record = find_record(source)
    if record is None:
        raise DatasetError(
            f"there is no {source}: give a folder of records, one WFDB record or MATLAB file, or a CSV or Parquet file with "
            "a column path, and check that every machine can see it"
        )
    folder, _, name = record.rpartition("/")
    root = Store(folder or ("/" if record.startswith("/") else ".")).root
    return RecordList(records=_table([name], [join(root, name)]), root=root)


def _listed(table: str) -> RecordList:
    paths = _column(table)
    first = 1 if table.endswith(".parquet") else 2
    if not paths:
        raise DatasetError(f"{table} lists no record: its column {PATH} is empty")
    seen: dict[str, int] = {}
    for row, path in enumerate(paths, start=first):
        if not path.strip():
            raise DatasetError(f"{table}: row {row} has no {PATH}: fill it in, or leave the row out")
        if path in seen:
            raise DatasetError(
                f"{table}: {path!r} is in row {seen[path]} and again in row {row}: list each record once"
            )
        seen[path] = row
    _known_kinds(paths)
    folder, _, _ = table.rpartition("/")
    root = Store(folder or ("/" if table.startswith("/") else ".")).root
    absolute = [not is_local(path) or path.startswith("/") for path in paths]
    named = [path if whole else join(root, path) for path, whole in zip(paths, absolute, strict=True)]
    records = [re.sub(r"\.(hea|dat)$", "", record) for record in named]
    return RecordList(records=_table(paths, records), root=None if all(absolute) else root)


def _column(table: str) -> list[str]:
    """The column path of a table, "" where it is null."""
    if not table.endswith(".parquet"):
        return read_csv(table, {PATH: pa.string()})[PATH].tolist()
    try:
        system, inner = filesystem(table)
        with system.open(inner, "rb") as source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            if PATH not in names:
                raise DatasetError(f"{table} has no column {PATH!r}; its columns are {', '.join(names)}")
            return [path or "" for path in file.read(columns=[PATH])[PATH].cast(pa.string()).to_pylist()]
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{table} is not there: check its name, and that every machine can see it") from error
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DatasetError(f"{table} cannot be read: {' '.join(str(error).split())}: write it again") from error


def _known_kinds(paths: list[str]) -> None:
    """Find out now, not in a worker, that a kind of URL is not known or needs a package."""
    for path in {path.partition("://")[0]: path for path in paths if not is_local(path)}.values():
        filesystem(path)


def _table(paths: list[str], records: list[str]) -> pa.Table:
    return pa.table({PATH: pa.array(paths, pa.string()), "record": pa.array(records, pa.string())}).sort_by(PATH)
