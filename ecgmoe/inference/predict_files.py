"""Predictions of WFDB records through Ray Data: a folder, or one record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgmoe.config_tools import to_dict
from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.tables import folder_exists
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import find_record, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import N_LEADS, N_SAMPLES, RecordFault
from ecgmoe.evaluation.predictions import prediction_columns
from ecgmoe.inference.predictor import Predictor, check_model
from ecgmoe.model.batch import ECGBatch, pad_r_peaks
from ecgmoe.model.folder import WEIGHTS
from ecgmoe.pipeline.nodes import refuse_local, require_here
from ecgmoe.pipeline.ray_data import actors, map_shards
from ecgmoe.pipeline.store import Store, digest_of, file_stamp

BLOCK_RECORDS = 32
REASON = "reason"
"""Column that says why a record has no prediction; null where it has one."""


class PredictFiles:
    """An actor: reads a block of records and predicts those that can be used.

    Args:
        root: folder of the records.
        model: model folder.
        policy: which records are not predicted but listed with a reason.
        reader: what recordings may leave open.
        parts: folder where each block's predictions are written too, so that they are not lost with the job; None for
            nowhere.
    """

    def __init__(
        self, root: str, model: str, policy: QualityPolicy, reader: ReaderOptions, parts: str | None = None
    ) -> None:
        require_here(root)
        require_here(model)
        self.root, self.policy, self.reader, self.predictor = root.rstrip("/"), policy, reader, Predictor(model)
        self.parts = Store(parts) if parts else None

    def __call__(self, block: pa.Table) -> pa.Table:
        """The block holds the column path, and block, its number, where parts are written."""
        predicted = self.read_and_predict(block)
        if self.parts:
            with self.parts.writing(part_name(block["block"][0].as_py())) as file:
                pq.write_table(predicted, file, compression="zstd")
        return predicted

    def read_and_predict(self, block: pa.Table) -> pa.Table:
        """Predictions, or the reason why there is none, of every path."""
        signals: list[torch.Tensor] = []
        peaks: list[torch.Tensor] = []
        reasons: list[str | None] = []
        for path in block["path"].to_pylist():
            try:
                record = read_usable(f"{self.root}/{path}", self.reader, self.policy)
            except RecordFault as fault:
                reasons.append(str(fault))
                continue
            signals.append(torch.from_numpy(record.signal))
            peaks.append(torch.from_numpy(record.r_peaks))
            reasons.append(None)
        return with_reasons(block["path"], reasons, self.predict(signals, peaks))

    def predict(self, signals: list[torch.Tensor], peaks: list[torch.Tensor]) -> pa.Table:
        """Prediction columns of the usable records."""
        count = len(signals)
        batch = ECGBatch(
            # A block without any usable record still needs the columns: predict one blank record and drop it.
            signal=torch.stack(signals) if count else torch.zeros(1, N_LEADS, N_SAMPLES, dtype=torch.int16),
            r_peaks=pad_r_peaks(peaks) if count else torch.full((1, 1), -1, dtype=torch.int32),
            study_id=torch.zeros(max(count, 1), dtype=torch.int64),
            patient_id=torch.zeros(max(count, 1), dtype=torch.int64),
        )
        return pa.table(prediction_columns(self.predictor(batch), self.predictor.tasks)).slice(0, count)


def with_reasons(paths: pa.ChunkedArray, reasons: list[str | None], predicted: pa.Table) -> pa.Table:
    """Predictions back in the order of the paths, null with a reason where there is none."""
    used = np.array([reason is None for reason in reasons])
    position = np.where(used, np.cumsum(used) - 1, 0)
    rows = predicted.take(pa.array(position, mask=~used))
    return pa.table(
        {"path": paths, **{name: rows[name] for name in rows.schema.names}, REASON: pa.array(reasons, pa.string())}
    )


def part_name(block: int) -> str:
    """File of a block's predictions."""
    return f"part-{block:06d}.parquet"


def finished_parts(parts: Store) -> dict[int, pa.Table]:
    """Predictions of the blocks that are there, by number; without those with a record that had none.

    Such a record may have been mended since.
    """
    finished = {}
    for name in parts.names():
        with parts.parquet(name) as file:
            table = file.read()
        if table[REASON].null_count == len(table):
            finished[int(name.removeprefix("part-").removesuffix(".parquet"))] = table
    return finished


def predict_files(
    model: str,
    source: str,
    policy: QualityPolicy | None = None,
    reader: ReaderOptions | None = None,
    parts: Store | None = None,
) -> pa.Table:
    """Predict every recording of a folder, or one recording.

    Args:
        model: model folder.
        source: a folder (searched with its subfolders), or a record with or without its extension.
        policy: which records are not predicted but listed with a reason.
        reader: what recordings may leave open.
        parts: folder that keeps what is predicted; what another call with the same arguments left there is taken. The
            caller deletes it.

    Returns:
        One row per record, ordered by path; bad records have nulls and a reason.

    Raises:
        ModelFolderError: `model` is not a model folder.
        DatasetError: there is no record.
    """
    check_model(model)
    none: tuple[tuple[str, str], ...] = ()
    alone = None if folder_exists(source) else find_record(source)
    if alone is not None:
        root, _, name = alone.rpartition("/")
        root, paths, excluded = root or ".", [name], none
    else:
        index = build_index("wfdb", source)
        root, paths, excluded = source, index.table["path"].to_pylist(), index.excluded
    blocks = [block_of(number, paths) for number in range(-(-len(paths) // BLOCK_RECORDS))]
    arguments: dict[str, Any] = {
        "root": Store(root).root,
        # An actor has another working directory.
        "model": Store(model).root,
        "policy": policy or QualityPolicy(),
        "reader": reader or ReaderOptions(),
    }
    finished: dict[int, pa.Table] = {}
    if parts is not None:
        weights = file_stamp(Store(model).path(WEIGHTS))
        decides = {name: to_dict(arguments[name]) for name in ("policy", "reader")}
        parts /= digest_of([arguments["root"], paths, arguments["model"], weights, decides])[:12]
        arguments["parts"] = parts.root
        finished = finished_parts(parts)
    todo = [block for number, block in enumerate(blocks) if number not in finished]
    if finished:
        there = sum(len(table) for table in finished.values())
        print(f"predict: {there:,} of {len(paths):,} records are there already, continuing with the others", flush=True)
    tables = list(finished.values())
    if todo:
        step = PredictFiles, {"fn_constructor_kwargs": arguments, **actors(len(todo))}
        tables += map_shards("predict", todo, step)
    if excluded:
        listed = pa.table({"path": [path for path, _ in excluded], REASON: [reason for _, reason in excluded]})
        tables.append(listed)
    return pa.concat_tables(tables, promote_options="default").sort_by("path")


def block_of(number: int, paths: list[str]) -> pa.Table:
    """Block `number` of the paths, as `PredictFiles` takes it."""
    part = paths[number * BLOCK_RECORDS : (number + 1) * BLOCK_RECORDS]
    return pa.table({"path": part, "block": pa.array(np.full(len(part), number, dtype=np.int32))})


def write_predictions(
    model: str, source: str, out: str, policy: QualityPolicy | None = None, reader: ReaderOptions | None = None
) -> tuple[int, int]:
    """Predict `source` into a Parquet file that appears when it is whole.

    Until then OUT.parts keeps what is predicted, and the same call goes on from there.

    Returns:
        Number of records predicted, and of records listed with a reason instead.

    Raises:
        ValueError: `out` is not a Parquet file's name, or a path is local and the cluster has several nodes.
        StorageError: `out` cannot be written.
    """
    if not out.endswith(".parquet"):
        raise ValueError(f"--out {out}: the predictions are a Parquet file, give a name that ends in .parquet")
    folder, _, name = out.rpartition("/")
    store = Store(folder or ("/" if out.startswith("/") else "."))
    refuse_local(model=Store(model).root, input=Store(source).root, out=store.root)
    table = predict_files(model, source, policy, reader, store / f"{name}.parts")
    with store.writing(name) as file:
        pq.write_table(table, file, compression="zstd")
    store.remove(f"{name}.parts")
    refused = len(table) - table[REASON].null_count
    return len(table) - refused, refused
