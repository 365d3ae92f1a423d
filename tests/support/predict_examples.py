"""A small calibrated model, and predictions of files without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ecgmoe.config_tools import to_dict
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.inference import predict_files
from ecgmoe.model.files import CALIBRATION as FILE
from ecgmoe.pipeline.ray_data import Step
from model_examples import saved_model
from prepared_examples import map_here

CALIBRATION = Calibration(
    temperature={"sex": 1.5, "potassium": 0.8, "arrhythmia": 1.2},
    half_width={"rr": 12.5, "age": 20.0},
    threshold={"arrhythmia": 0.08},
    patients=dict.fromkeys(("rr", "age", "sex", "potassium", "arrhythmia"), 100),
    fitted_on="nothing",
)


def calibrated_model(folder: Path, calibration: Calibration = CALIBRATION) -> str:
    """`saved_model` with a calibration beside it; returns its folder."""
    saved_model(folder)
    (folder / FILE).write_text(json.dumps(to_dict(calibration)))
    return str(folder)


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """`write_predictions` predicts its blocks in this process, the last one first."""

    def here(stage: str, shards: Sequence[pa.Table], step: Step, records: Callable[[pa.Table], int]) -> Iterator[Any]:
        actor, resources = step
        return map_here(stage, shards, (actor(**resources["fn_constructor_kwargs"]), {}))

    patch.setattr(predict_files, "map_shards", here)
    patch.setattr(predict_files, "actors", lambda blocks, workers: {})
