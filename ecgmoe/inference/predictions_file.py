"""The file of predictions, written part by part in the order of the paths, so that memory does not grow with the records."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ecgmoe.evaluation.columns import ARRHYTHMIA_PROBABILITIES, PROBABILITY
from ecgmoe.inference.record_table import MODEL_VERSION, REASON
from ecgmoe.pipeline.store import Store

ROW_GROUP_ROWS = 1 << 16
KINDS = (".parquet", ".csv")


def part_name(block: int) -> str:
    """File of a block's predictions."""
    return f"part-{block:06d}.parquet"


def rows_in_order(
    parts: Store, blocks: int, excluded: Sequence[tuple[str, str]], schema: pa.Schema, version: str
) -> Iterator[pa.Table]:
    """The rows of all blocks, and between them those of what was excluded before, ordered by path.

    Args:
        parts: folder with a file for each block; the blocks follow each other in the order of paths.
        blocks: number of them.
        excluded: (path, reason), ordered.
        schema: of the parts.
        version: of the model.
    """
    told, excluded_paths = 0, [path for path, _ in excluded]
    for block in range(blocks):
        with parts.parquet(part_name(block)) as file:
            table = file.read()
        end = bisect_right(excluded_paths, table["path"][-1].as_py()) if block + 1 < blocks else len(excluded)
        if end > told:
            table = pa.concat_tables([table, _excluded_rows(excluded[told:end], schema, version)]).sort_by("path")
        told = end
        yield table


def _excluded_rows(excluded: Sequence[tuple[str, str]], schema: pa.Schema, version: str) -> pa.Table:
    paths, reasons = zip(*excluded, strict=True)
    known = {"path": paths, MODEL_VERSION: [version] * len(paths), REASON: reasons}
    return pa.table(
        [pa.array(known.get(field.name, [None] * len(paths)), field.type) for field in schema], schema=schema
    )


def write_rows(file: IO[bytes], kind: str, rows: Iterator[pa.Table], schema: pa.Schema, classes: Sequence[str]) -> None:
    """Write rows to an open file.

    Args:
        file: to write to.
        kind: of `KINDS`.
        rows: tables of `schema`.
        schema: with the metadata of the file; a CSV file has no place for it.
        classes: of the task arrhythmia, in their order.
    """
    if kind == ".csv":
        with pa_csv.CSVWriter(file, flat(schema.empty_table(), classes).schema) as csv:
            for table in rows:
                csv.write_table(flat(table, classes))
        return
    parquet = pq.ParquetWriter(file, schema, compression="zstd")
    try:
        for table in _grouped(rows):
            parquet.write_table(table)
    except BaseException:
        # Of a file that is given up, Arrow would otherwise complain that it cannot write its end.
        parquet.is_open = False
        raise
    parquet.close()


def _grouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least `ROW_GROUP_ROWS`: small row groups are slow to read."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def flat(table: pa.Table, classes: Sequence[str]) -> pa.Table:
    """What a CSV file can hold of a table: names joined by ";", and a column for the probability of each class."""
    columns: dict[str, pa.ChunkedArray] = {}
    for name in table.column_names:
        column = table[name]
        if name == ARRHYTHMIA_PROBABILITIES:
            columns |= {class_column(each): pc.list_element(column, index) for index, each in enumerate(classes)}
        else:
            columns[name] = pc.binary_join(column, ";") if pa.types.is_list(column.type) else column
    return pa.table(columns)


def class_column(name: str) -> str:
    """Column of a class' probability in a CSV file: small letters and digits, "_" for everything between them."""
    return f"{PROBABILITY['arrhythmia']}_{'_'.join(re.findall('[a-z0-9]+', name.lower()))}"
