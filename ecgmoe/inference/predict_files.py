"""Predictions of WFDB records through Ray Data: a folder, or one record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgmoe.datasets.index import build_index
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import find_record, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import N_LEADS, N_SAMPLES, RecordFault
from ecgmoe.evaluation.predictions import prediction_columns
from ecgmoe.inference.predictor import Predictor, check_model
from ecgmoe.model.batch import ECGBatch, pad_r_peaks
from ecgmoe.pipeline.ray_data import actors, map_shards
from ecgmoe.pipeline.store import Store

BLOCK_RECORDS = 32
REASON = "reason"
"""Column that says why a record has no prediction; null where it has one."""


class PredictFiles:
    """An actor: reads a block of records (column path) and predicts those that can be used."""

    def __init__(self, root: str, model: str, policy: QualityPolicy, reader: ReaderOptions) -> None:
        self.root, self.policy, self.reader, self.predictor = root.rstrip("/"), policy, reader, Predictor(model)

    def __call__(self, block: pa.Table) -> pa.Table:
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


def predict_files(
    model: str, source: str, policy: QualityPolicy | None = None, reader: ReaderOptions | None = None
) -> pa.Table:
    """Predict every recording of a folder, or one recording.

    Args:
        model: model folder.
        source: a folder (searched with its subfolders), or a record with or without its extension.
        policy: which records are not predicted but listed with a reason.
        reader: what recordings may leave open.

    Returns:
        One row per record, ordered by path; bad records have nulls and a reason.

    Raises:
        ModelFolderError: `model` is not a model folder.
        DatasetError: there is no record.
    """
    check_model(model)
    none: tuple[tuple[str, str], ...] = ()
    alone = None if "://" in source or Path(source).is_dir() else find_record(source)
    if alone is not None:
        root, paths, excluded = str(Path(alone).parent), [Path(alone).name], none
    else:
        index = build_index("wfdb", source)
        root, paths, excluded = source, index.table["path"].to_pylist(), index.excluded
    blocks = [pa.table({"path": paths[start : start + BLOCK_RECORDS]}) for start in range(0, len(paths), BLOCK_RECORDS)]
    arguments = {
        "root": Store(root).root,
        "model": model,
        "policy": policy or QualityPolicy(),
        "reader": reader or ReaderOptions(),
    }
    step = PredictFiles, {"fn_constructor_kwargs": arguments, **actors(len(blocks))}
    tables = list(map_shards("predict", blocks, step))
    if excluded:
        listed = pa.table({"path": [path for path, _ in excluded], REASON: [reason for _, reason in excluded]})
        tables.append(listed)
    return pa.concat_tables(tables, promote_options="default").sort_by("path")


def write_predictions(
    model: str, source: str, out: str, policy: QualityPolicy | None = None, reader: ReaderOptions | None = None
) -> tuple[int, int]:
    """Predict `source` into a Parquet file that appears when it is whole.

    Returns:
        Number of records predicted, and of records listed with a reason instead.

    Raises:
        ValueError: `out` is not a Parquet file's name.
    """
    if not out.endswith(".parquet"):
        raise ValueError(f"--out {out}: the predictions are a Parquet file, give a name that ends in .parquet")
    table = predict_files(model, source, policy, reader)
    folder, _, name = out.rpartition("/")
    with Store(folder or ".").writing(name) as file:
        pq.write_table(table, file, compression="zstd")
    refused = len(table) - table[REASON].null_count
    return len(table) - refused, refused
