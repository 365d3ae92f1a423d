"""Reading the CSV tables of a dataset, local or remote, plain or gzip, and building the index from them."""

from __future__ import annotations

import codecs
import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from ecgmoe.datasets.schema import STUDY_SCHEMA, DatasetError
from ecgmoe.ecg.wfdb_file import printable
from ecgmoe.filesystem import StorageError, filesystem, is_local

_BLOCK_BYTES = 4 << 20
# "a", "./a" and "a//b" would be two studies of one file.
_UNSAFE_PATH = r"(^|[/\\])\.{1,2}([/\\]|$)|[/\\]{2}|^[/\\]|^[A-Za-z]:|://|[\x00-\x1f]"


def join(folder: str, name: str) -> str:
    """Path or URL of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def folder_exists(folder: str) -> bool:
    """Whether a local path or URL is a folder."""
    system, path = filesystem(folder)
    return bool(system.isdir(path))


def find_table(folder: str, name: str) -> str | None:
    """Path of `name` (which ends in .csv) or `name`.gz in a folder; None where there is neither."""
    system, path = filesystem(folder)
    return next((join(folder, file) for file in (name, f"{name}.gz") if system.exists(join(path, file))), None)


def need_table(folder: str, name: str) -> str:
    """As `find_table`, but the table has to be there.

    Raises:
        DatasetError: neither form is in the folder.
    """
    path = find_table(folder, name)
    if path is None:
        raise DatasetError(f"{name} (or {name}.gz) is not in {folder}: give the folder that holds it")
    return path


def column_names(path: str) -> list[str]:
    """Names in the first line of a CSV file.

    Raises:
        DatasetError: the file cannot be read or is empty, or a name is there twice.
    """
    try:
        with _opened(path) as stream:
            beginning = stream.read(1 << 16)
    except OSError as error:
        raise _unreadable(path, error) from error
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DatasetError(f"{path} is not UTF-8 text but UTF-16: save it again as UTF-8")
    first = beginning.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").rstrip("\r\n")
    if not first.strip():
        raise DatasetError(f"{path} is empty: it needs a header line with column names")
    try:
        names = next(csv.reader([first]))
    except csv.Error as error:
        raise _unreadable(path, error) from error
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise DatasetError(f"{path} has the column {repeated!r} more than once: keep one of them")
    return names


def stream_csv(path: str, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Read some columns of a CSV file in batches of bounded size.

    Raises:
        DatasetError: the file cannot be read, lacks a column, holds a value of another type, or is torn.
    """
    present = column_names(path)
    for name in columns:
        if name not in present:
            raise DatasetError(f"{path} has no column {name!r}; its columns are {', '.join(present)}")
    convert = pa_csv.ConvertOptions(column_types=dict(columns), include_columns=list(columns))
    try:
        with _opened(path) as stream:
            yield from pa_csv.open_csv(
                stream,
                read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=convert,
            )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise _unreadable(path, error) from error


def read_csv(path: str, columns: Mapping[str, pa.DataType]) -> pd.DataFrame:
    """Read some columns of a CSV file whole. Raises as `stream_csv`."""
    schema = pa.schema(list(columns.items()))
    frame: pd.DataFrame = pa.Table.from_batches(stream_csv(path, columns), schema=schema).to_pandas()
    return frame


def _opened(path: str) -> pa.NativeFile:
    if is_local(path):
        source = pa.OSFile(path)
    else:
        system, inner = filesystem(path)
        source = pa.PythonFile(system.open(inner, "rb", block_size=_BLOCK_BYTES), mode="r")
    return pa.CompressedInputStream(source, "gzip") if path.endswith(".gz") else source


def _unreadable(path: str, error: Exception) -> DatasetError | StorageError:
    """What is wrong with a table, and what to do: a cell, the encoding and a torn file have different remedies."""
    if isinstance(error, StorageError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return DatasetError(f"{path} is not there: check its name, and that every machine can see it")
    if "invalid UTF8" in text:
        return DatasetError(f"{path} is not UTF-8 text but Latin-1 or another encoding: save it again as UTF-8")
    if "conversion error" in text:
        return DatasetError(f"{path} cannot be read: {text}. Correct that cell, or leave it empty")
    if "Expected" in text:
        return DatasetError(
            f"{path} cannot be read: {text}. Quote a cell that holds a comma, write numbers with a decimal point, and "
            "fetch the file again if it was cut off there"
        )
    return DatasetError(
        f"{path} cannot be read: {text}. If it is torn or damaged, fetch it again and check its SHA-256"
    )


def hash63(text: str) -> int:
    """An id for a name: the first 63 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def without_undecodable_names(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """The rows whose path is a name that tables and hashes can take, and (path, reason) of the others.

    Python reads file names that are no UTF-8 with surrogates.
    """
    shown = frame["path"].map(printable)
    undecodable = shown != frame["path"]
    reason = "the file name is not valid UTF-8: rename it"
    return frame[~undecodable].reset_index(drop=True), tuple((path, reason) for path in shown[undecodable])


def unsafe_paths(paths: pd.Series) -> npt.NDArray[np.bool_]:
    """Whether each path could name something else than one file under root, under one name."""
    matched = pc.match_substring_regex(pa.array(paths, pa.string()), _UNSAFE_PATH).to_numpy(zero_copy_only=False)
    return matched | (paths == "").to_numpy()


def unique_studies(
    frame: pd.DataFrame, table: str, repeated_id: str = "duplicate study_id {}"
) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """Take out rows that no record can be read for: unsafe paths, and all but the first row of a study_id.

    Args:
        frame: with study_id, patient_id and path.
        table: path of the table, for messages.
        repeated_id: what the reason calls a row whose study_id (in the braces) was there before.

    Returns:
        The remaining rows, and (path, reason) of the others.

    Raises:
        DatasetError: a row without an id, or no row at all.
    """
    for name in ("study_id", "patient_id"):
        if frame[name].isna().any():
            raise DatasetError(
                f"{table}: row {int(frame[name].isna().to_numpy().argmax()) + 2} has no {name}: fill it in"
            )
    paths = frame["path"].fillna("").astype(str)
    unsafe = unsafe_paths(paths)
    repeated = np.zeros(len(frame), dtype=bool)
    repeated[~unsafe] = frame["study_id"][~unsafe].duplicated()
    excluded = [(path, "the path is not a relative path under root") for path in paths[unsafe]]
    excluded += [
        (path, f"{repeated_id.format(study_id)}, the first row is kept")
        for path, study_id in zip(paths[repeated], frame["study_id"][repeated], strict=True)
    ]
    kept = frame[~(unsafe | repeated)].reset_index(drop=True)
    if kept.empty:
        raise DatasetError(f"{table} names no usable record: is it the right file?")
    return kept, tuple(excluded)


def study_table(frame: pd.DataFrame) -> pa.Table:
    """Rows of `STUDY_SCHEMA`; columns that the frame lacks are null."""
    arrays = []
    for field in STUDY_SCHEMA:
        if field.name not in frame:
            arrays.append(pa.nulls(len(frame), field.type))
        elif pa.types.is_string(field.type):
            arrays.append(pa.array(frame[field.name], field.type, from_pandas=True))
        else:
            arrays.append(pa.array(frame[field.name], from_pandas=True).cast(field.type))
    return pa.table(arrays, schema=STUDY_SCHEMA)


def within(values: pd.Series, low: float, high: float) -> pd.Series:
    """The values as float, null outside of low..high."""
    numbers = values.astype(np.float64)
    return numbers.where(numbers.between(low, high))
