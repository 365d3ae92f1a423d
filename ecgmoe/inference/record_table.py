"""What a user gets of each record, predicted from a file or from an array: one table, whose columns DATA.md explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ecgmoe.ecg.beats import median_rr_ms
from ecgmoe.ecg.quality_policy import Quality, leads_of
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.evaluation.columns import (
    ARRHYTHMIA_PROBABILITIES,
    ARRHYTHMIA_SET,
    DECISION_THRESHOLD,
    DETECTED_RR,
    PREDICTION,
    PROBABILITY,
)
from ecgmoe.evaluation.predictions import prediction_columns
from ecgmoe.inference.predictor import Predictor
from ecgmoe.model.batch import ECGBatch, pad_r_peaks
from ecgmoe.tasks import Task

REASON = "reason"
"""Column that says why a record has no prediction; null where it has one."""

BEATS, MODEL_VERSION, QUALITY = "beats_detected", "model_version", "quality_"
_NAMES = pa.list_(pa.string())


def interval_columns(task: str) -> tuple[str, str]:
    """Columns of the lower and the upper end of a task's interval."""
    return f"{PREDICTION[task]}_low", f"{PREDICTION[task]}_high"


def record_schema(tasks: Sequence[Task], calibration: Calibration) -> pa.Schema:
    """Columns of a file of predictions; what is not calibrated has no intervals and no sets."""
    columns: list[tuple[str, pa.DataType]] = [("path", pa.string())]
    for task in tasks:
        columns += _task_columns(task, calibration)
    columns += [(f"{QUALITY}{field.name}", _quality_type(field.name)) for field in fields(Quality)]
    columns += [(f"{QUALITY}few_beats", pa.bool_()), (BEATS, pa.int32()), (DETECTED_RR, pa.float32())]
    return pa.schema([*columns, (MODEL_VERSION, pa.string()), (REASON, pa.string())])


def _task_columns(task: Task, calibration: Calibration) -> list[tuple[str, pa.DataType]]:
    name, number = PREDICTION[task.name], pa.float32()
    if task.kind == "regression":
        ends = interval_columns(task.name) if task.name in calibration.half_width else ()
        return [(name, number), *((end, number) for end in ends)]
    if task.kind == "binary":
        return [(task.name, pa.string()), (name, number)]
    sets = [(ARRHYTHMIA_SET, _NAMES)] if task.name in calibration.threshold else []
    return [
        (name, pa.string()),
        (PROBABILITY[task.name], number),
        *sets,
        (ARRHYTHMIA_PROBABILITIES, pa.list_(number)),
    ]


def _quality_type(name: str) -> pa.DataType:
    if name.endswith("_leads"):
        return _NAMES
    return pa.int32() if name == "padded_samples" else pa.float32()


def predict_records(
    predictor: Predictor, version: str, paths: Sequence[str], records: Sequence[UsableRecord | str]
) -> pa.Table:
    """Predict records in one pass.

    Args:
        predictor: of the model.
        version: of the model.
        paths: what the rows are called.
        records: of each path, or the reason why it cannot be used.

    Returns:
        A row of `record_schema` for every path, null with a reason where there is no prediction.
    """
    schema = record_schema(predictor.tasks, predictor.calibration)
    used = np.array([not isinstance(record, str) for record in records])
    usable = [record for record in records if not isinstance(record, str)]
    rows = pa.table(_columns(predictor, usable)) if usable else schema.empty_table()
    position = pa.array(np.where(used, np.cumsum(used) - 1, 0), mask=~used)
    known: dict[str, Any] = {
        "path": pa.array(paths, pa.string()),
        MODEL_VERSION: pa.array([version] * len(paths), pa.string()),
        REASON: pa.array([record if isinstance(record, str) else None for record in records], pa.string()),
    }
    columns = [known[name] if name in known else rows[name].take(position) for name in schema.names]
    return pa.table(columns, schema=schema)


def _columns(predictor: Predictor, records: Sequence[UsableRecord]) -> dict[str, pa.Array]:
    """Columns of usable records, but for their paths."""
    values = predictor(batch_of(records))
    columns = prediction_columns(values, predictor.tasks)
    for task in predictor.tasks:
        columns |= _calibrated(task, predictor.calibration, values[task.name])
    qualities = [asdict(record.quality) for record in records]
    for name in qualities[0]:
        found = [quality[name] for quality in qualities]
        cells = [leads_of(mask) for mask in found] if name.endswith("_leads") else found
        columns[f"{QUALITY}{name}"] = pa.array(cells, _quality_type(name))
    columns[f"{QUALITY}few_beats"] = pa.array([record.few_beats for record in records])
    columns[BEATS] = pa.array([len(record.r_peaks) for record in records], pa.int32())
    columns[DETECTED_RR] = pa.array([median_rr_ms(record.r_peaks) for record in records], pa.float32())
    return columns


def _calibrated(task: Task, calibration: Calibration, values: Any) -> dict[str, pa.Array]:
    """A task's interval, class or set of classes; `values` as the predictor gives them."""
    if task.kind == "regression":
        if task.name not in calibration.half_width:
            return {}
        half = calibration.half_width[task.name]
        ends = zip(interval_columns(task.name), (values - half, values + half), strict=True)
        return {name: pa.array(end, pa.float32()) for name, end in ends}
    if task.kind == "binary":
        return {task.name: pa.array([task.classes[int(p >= DECISION_THRESHOLD)] for p in values], pa.string())}
    sets = calibration.sets(task, values)
    if sets is None:
        return {}
    names = [[task.classes[index] for index in np.flatnonzero(inside)] for inside in sets]
    return {ARRHYTHMIA_SET: pa.array(names, _NAMES)}


def batch_of(records: Sequence[UsableRecord]) -> ECGBatch:
    """Records as the model takes them."""
    nobody = torch.zeros(len(records), dtype=torch.int64)
    return ECGBatch(
        signal=torch.stack([torch.from_numpy(record.signal) for record in records]),
        r_peaks=pad_r_peaks([record.r_peaks for record in records]),
        study_id=nobody,
        patient_id=nobody,
    )
