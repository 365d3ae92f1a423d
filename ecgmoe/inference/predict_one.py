"""`ecgmoe.predict`: one ECG, from a file or an array, the same way as `jobs/predict.py` takes many. No Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy.typing as npt

from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.ecg.reader_options import ReaderOptions, Unit
from ecgmoe.evaluation.columns import ARRHYTHMIA_PROBABILITIES, ARRHYTHMIA_SET, DETECTED_RR, PREDICTION
from ecgmoe.inference.about_model import FILES, AboutModel, about_model
from ecgmoe.inference.one_record import given_record
from ecgmoe.inference.predictor import Predictor, check_model
from ecgmoe.inference.record_table import BEATS, MODEL_VERSION, QUALITY, interval_columns, predict_records
from ecgmoe.pipeline.store import Store, file_stamp
from ecgmoe.tasks import Task

MODELS_KEPT = 2
"""Models that stay in memory, so that a loop over records loads its model once."""


@dataclass(frozen=True, kw_only=True)
class TaskPrediction:
    """What a model says of one task.

    Attributes:
        value: of a number, in `unit`; None for a task of classes.
        unit: ms or years, empty for a task of classes.
        interval: lower and upper end in `unit`, None without calibration.
        class_name: the likeliest class; None for a number.
        probabilities: by class; empty for a number.
        class_set: the classes that are to hold the truth, None without calibration and where there are two classes.
    """

    value: float | None = None
    unit: str = ""
    interval: tuple[float, float] | None = None
    class_name: str | None = None
    probabilities: Mapping[str, float]
    class_set: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of one ECG. Research use only: never a diagnosis.

    Attributes:
        tasks: by name: rr, age, sex, potassium, arrhythmia, as far as the model has them.
        quality: what was measured before, by the names of a predictions file without their "quality_".
        beats_detected: R peaks.
        rr_detected_ms: their median interval, None under two.
        level: share of patients whose truth intervals and sets are to hold, None without calibration.
        model_version: digest of the model folder.
    """

    tasks: Mapping[str, TaskPrediction]
    quality: Mapping[str, Any]
    beats_detected: int
    rr_detected_ms: float | None
    level: float | None
    model_version: str


def predict(
    source: str | os.PathLike[str] | npt.ArrayLike,
    *,
    model: str | os.PathLike[str],
    fs: float | None = None,
    leads: Sequence[str] | None = None,
    unit: Unit | None = None,
    policy: QualityPolicy | None = None,
    reader: ReaderOptions | None = None,
) -> Prediction:
    """Predict all tasks of one ECG of at least 10 s with twelve leads. Research use only: never a diagnosis.

    Args:
        source: path or URL of a WFDB record, with or without its extension, or of a MATLAB file; or an array (leads,
            samples), NaN where a sample is missing.
        model: model folder.
        fs: sampling rate of an array in Hz; files tell it.
        leads: name of each row of an array, such as ("I", "II", ..., "V6"), in any order; files tell them.
        unit: of an array, mV where it is None; files tell it.
        policy: which records are refused, and which leads are masked.
        reader: what recordings may leave open.

    Returns:
        The numbers that `jobs/predict.py` writes for the record, up to the rounding of float32.

    Raises:
        ModelFolderError: `model` is not a model folder.
        ValueError: the record cannot be used, with the reason; or an option that a file would ignore.
    """
    predictor, about = loaded(os.fspath(model))
    record = given_record(source, fs=fs, leads=leads, unit=unit, policy=policy, reader=reader)
    return predictions(predictor, about, [record])[0]


def predictions(predictor: Predictor, about: AboutModel, records: Sequence[UsableRecord]) -> list[Prediction]:
    """Predict records in one pass of their model."""
    table = predict_records(predictor, about.version, [""] * len(records), records)
    return [_prediction(about, row) for row in table.to_pylist()]


def _prediction(about: AboutModel, row: Mapping[str, Any]) -> Prediction:
    return Prediction(
        tasks={task.name: _task_prediction(task, row) for task in about.tasks},
        quality={name.removeprefix(QUALITY): value for name, value in row.items() if name.startswith(QUALITY)},
        beats_detected=row[BEATS],
        rr_detected_ms=row[DETECTED_RR],
        level=about.level,
        model_version=row[MODEL_VERSION],
    )


def _task_prediction(task: Task, row: Mapping[str, Any]) -> TaskPrediction:
    value = row[PREDICTION[task.name]]
    if task.kind == "regression":
        low, high = (row.get(name) for name in interval_columns(task.name))
        interval = None if low is None or high is None else (low, high)
        return TaskPrediction(value=value, unit=task.unit, interval=interval, probabilities={})
    if task.kind == "binary":
        both = dict(zip(task.classes, (1 - value, value), strict=True))
        return TaskPrediction(class_name=row[task.name], probabilities=both)
    names = row.get(ARRHYTHMIA_SET)
    return TaskPrediction(
        class_name=value,
        probabilities=dict(zip(task.classes, row[ARRHYTHMIA_PROBABILITIES], strict=True)),
        class_set=None if names is None else tuple(names),
    )


def loaded(model: str) -> tuple[Predictor, AboutModel]:
    """A model, kept until `MODELS_KEPT` others were asked for, and read again when its files change.

    Raises:
        ModelFolderError: it is not a model folder.
    """
    check_model(model)
    folder = Store(model)
    stamps = tuple(tuple(file_stamp(folder.path(name)) or ()) for name in FILES)
    return _loaded(folder.root, stamps)


@lru_cache(maxsize=MODELS_KEPT)
def _loaded(folder: str, stamps: tuple[tuple[Any, ...], ...]) -> tuple[Predictor, AboutModel]:
    return Predictor(folder), about_model(folder)
