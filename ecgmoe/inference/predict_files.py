"""Predictions of recordings through Ray Data: of a folder, of a table of paths, or of one record.

The records are cut into blocks in the order of their paths. Each block is one task and one atomic write to OUT.parts, and OUT
is written from these at the end. So an interrupted job goes on with the blocks that are not there, and what comes out does
not depend on interruptions or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import ecgmoe
from ecgmoe.allocator import keep_freed_memory
from ecgmoe.config_tools import to_dict
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import UsableRecord, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault
from ecgmoe.inference.about_model import AboutModel, about_model
from ecgmoe.inference.predictions_file import KINDS, part_name, rows_in_order, write_rows
from ecgmoe.inference.predictor import Predictor
from ecgmoe.inference.record_list import list_source
from ecgmoe.inference.record_table import REASON, predict_records, record_schema
from ecgmoe.pipeline.nodes import refuse_local, require_here
from ecgmoe.pipeline.ray_data import actors, map_shards
from ecgmoe.pipeline.reasons import FrequentReasons
from ecgmoe.pipeline.shards import default_shard_rows
from ecgmoe.pipeline.store import Store, digest_of

BATCH = 32
"""Records that are in memory, and pass the model, at once."""

BLOCK_RECORDS = 256
"""Most records of a block, which is what a kill loses of each worker's work."""

PLAN = "plan.json"


class PredictFiles:
    """An actor: reads a block of records and predicts those that can be used.

    Args:
        model: model folder.
        version: of the model.
        policy: which records are not predicted but listed with a reason.
        reader: what recordings may leave open.
        parts: folder where the predictions of each block are written.
        root: folder of the records; None where each is named in full.
    """

    def __init__(
        self,
        *,
        model: str,
        version: str,
        policy: QualityPolicy,
        reader: ReaderOptions,
        parts: str,
        root: str | None = None,
    ) -> None:
        if root is not None:
            require_here(root)
        require_here(model)
        require_here(parts, PLAN)
        keep_freed_memory()
        self.predictor, self.version = Predictor(model), version
        self.policy, self.reader, self.parts = policy, reader, Store(parts)

    def __call__(self, block: pa.Table) -> pa.Table:
        """The block holds path, record and block, its number; its number of records comes back.

        Where it was written before, these are the records of it that are read again, and the others keep their rows.
        """
        name, rows = part_name(block["block"][0].as_py()), self.predict(block)
        if self.parts.exists(name):
            with self.parts.parquet(name) as file:
                before = file.read()
            kept = before.filter(pc.invert(pc.is_in(before["path"], block["path"].combine_chunks())))
            rows = pa.concat_tables([kept, rows]).sort_by("path")
        with self.parts.writing(name) as file:
            pq.write_table(rows, file, compression="zstd")
        return pa.table({"records": [len(block)]})

    def predict(self, block: pa.Table) -> pa.Table:
        """A row for every path: predictions, or the reason why there are none."""
        tables = []
        for start in range(0, len(block), BATCH):
            rows = block.slice(start, BATCH)
            records = [self._read(record) for record in rows["record"].to_pylist()]
            tables.append(predict_records(self.predictor, self.version, rows["path"].to_pylist(), records))
        return pa.concat_tables(tables).combine_chunks()

    def _read(self, record: str) -> UsableRecord | str:
        try:
            return read_usable(record, self.reader, self.policy)
        except RecordFault as fault:
            return str(fault)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written.

    Attributes:
        predicted: records with predictions.
        refused: records with a reason instead.
        reasons: the most frequent ones, each with its count and an example.
    """

    predicted: int
    refused: int
    reasons: tuple[str, ...]


def write_predictions(
    model: str,
    source: str,
    out: str,
    *,
    policy: QualityPolicy | None = None,
    reader: ReaderOptions | None = None,
    workers: int | None = None,
) -> Written:
    """Predict records into a file that appears when it is whole, one row for each, ordered by path.

    Until then OUT.parts keeps what is predicted, and the same call goes on from there; records that had no prediction are
    read again, since they may have been mended.

    Args:
        model: model folder.
        source: as `list_source` takes it.
        out: Parquet or CSV file; its columns are those of `record_schema`.
        policy: which records are not predicted but listed with a reason.
        reader: what recordings may leave open.
        workers: actors; None takes as many as the cluster holds.

    Raises:
        ValueError: `out` is no name of such a file, or a path is local and the cluster has several nodes.
        ModelFolderError: `model` is not a model folder.
        DatasetError: there is no record, or the table of paths cannot be used.
        StorageError: `out` cannot be written.
    """
    kind = next((kind for kind in KINDS if out.endswith(kind)), None)
    if kind is None:
        raise ValueError(f"--out {out}: give a name that ends in {' or '.join(KINDS)}")
    folder, _, name = out.rpartition("/")
    store = Store(folder or ("/" if out.startswith("/") else "."))
    if Store(source).root == store.path(name):
        raise ValueError(f"--out {out} is the input, which would be lost: choose another name")
    about = about_model(model)
    found = list_source(source)
    model = Store(model).root
    refuse_local(model=model, input=found.local, out=store.root)
    for line in filter(None, (about.not_predicted(), about.not_calibrated())):
        print(f"predict: {line}", flush=True)
    blocks = cut(found.records)
    # An actor has another working directory: all paths are absolute.
    arguments: dict[str, Any] = {
        "model": model,
        "version": about.version,
        "policy": policy or QualityPolicy(),
        "reader": reader or ReaderOptions(),
        "root": found.root,
    }
    decides = [ecgmoe.__version__, about.version, *(to_dict(arguments[each]) for each in ("policy", "reader"))]
    digests = [digest_of([block[column].to_pylist() for column in ("path", "record")]) for block in blocks]
    parts = store / f"{name}.parts" / digest_of([decides, digests])[:12]
    parts.write_json(PLAN, {"model": model, "model_version": about.version, "input": source, "blocks": len(blocks)})
    predict_blocks(blocks, parts, arguments, workers)
    store.remove_partial_of(name)
    summary = Summary()
    schema = record_schema(about.tasks, about.calibration)
    rows = rows_in_order(parts, len(blocks), found.excluded, schema, about.version)
    with store.writing(name) as file:
        write_rows(file, kind, summary.over(rows), schema.with_metadata(about.metadata()), _classes(about))
    store.remove(f"{name}.parts")
    return summary.written()


def _classes(about: AboutModel) -> tuple[str, ...]:
    return next((task.classes for task in about.tasks if task.kind == "multiclass"), ())


def cut(records: pa.Table) -> list[pa.Table]:
    """Blocks as `PredictFiles` takes them, in the order of the records."""
    size = default_shard_rows(len(records), BLOCK_RECORDS)
    blocks = [records.slice(start, size) for start in range(0, len(records), size)]
    return [
        block.append_column("block", pa.array(np.full(len(block), number, dtype=np.int32)))
        for number, block in enumerate(blocks)
    ]


def predict_blocks(blocks: list[pa.Table], parts: Store, arguments: dict[str, Any], workers: int | None) -> None:
    """Predict the records that have no prediction yet."""
    there = set(parts.names())
    unfinished = (
        block.filter(_refused(parts, number)) if part_name(number) in there else block
        for number, block in enumerate(blocks)
    )
    todo = [block for block in unfinished if len(block)]
    records = sum(map(len, blocks))
    if done := records - sum(map(len, todo)):
        print(f"predict: {done:,} of {records:,} records are there already, continuing with the others", flush=True)
    if todo:
        resources = actors(len(todo), workers=workers)
        step = PredictFiles, {"fn_constructor_kwargs": {**arguments, "parts": parts.root}, **resources}
        for _ in map_shards("predict", todo, step, records=lambda table: table["records"][0].as_py()):
            pass


def _refused(parts: Store, number: int) -> pa.ChunkedArray:
    """Which rows of a block have no prediction."""
    with parts.parquet(part_name(number)) as file:
        return file.read(columns=[REASON])[REASON].is_valid()


class Summary:
    """Counts rows on their way."""

    def __init__(self) -> None:
        self._rows = self._refused = 0
        self._reasons = FrequentReasons()

    def over(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The same tables, counted."""
        for table in tables:
            self._rows += len(table)
            for path, reason in zip(table["path"].to_pylist(), table[REASON].to_pylist(), strict=True):
                if reason is not None:
                    self._refused += 1
                    self._reasons.add(path, reason)
            yield table

    def written(self) -> Written:
        """The counts."""
        return Written(predicted=self._rows - self._refused, refused=self._refused, reasons=tuple(self._reasons.most()))
