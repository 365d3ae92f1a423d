"""What the model's process sends back for each record, and what it says of itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import ecgmoe
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.inference.about_model import USE, AboutModel
from ecgmoe.inference.predict_one import predictions
from ecgmoe.inference.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Answer:
    """To one record.

    Attributes:
        prediction: as JSON has it; None where the model failed on this record.
        batch: records in its pass.
        first: whether it is the first of its batch, so that batches can be counted.
    """

    prediction: dict[str, Any] | None
    batch: int
    first: bool


def answers(predictor: Predictor, about: AboutModel, records: Sequence[UsableRecord]) -> list[Answer]:
    """Predict a batch. A record on which the model fails does not take its neighbours with it."""
    try:
        found: list[dict[str, Any] | None] = [_json(each) for each in predictions(predictor, about, records)]
    except Exception:
        if len(records) == 1:
            logging.getLogger(__name__).exception("the model failed on a record")
            return [Answer(prediction=None, batch=1, first=True)]
        return [answers(predictor, about, [record])[0] for record in records]
    return [Answer(prediction=each, batch=len(records), first=position == 0) for position, each in enumerate(found)]


def _json(prediction: Any) -> dict[str, Any]:
    return {"use": USE, **asdict(prediction)}


def description(folder: str, predictor: Predictor, about: AboutModel) -> dict[str, Any]:
    """A model in words: what GET /model answers."""
    *_, run, last = ("", *PurePosixPath(folder.rstrip("/")).parts)
    calibration = about.calibration
    known = {*calibration.temperature, *calibration.half_width}
    return {
        "use": USE,
        # STORAGE/NAME/model is called NAME; the path itself is nobody's business.
        "name": run if last == "model" and run else last,
        "model_version": about.version,
        "ecgmoe_version": ecgmoe.__version__,
        "level": about.level,
        "not_predicted": list(about.untrained),
        "tasks": [
            {
                "name": task.name,
                "kind": task.kind,
                "unit": task.unit,
                "classes": list(task.classes),
                "calibrated": task.name in known,
            }
            for task in about.tasks
        ],
        "backbones": [
            {"name": each["name"], "provenance": each["provenance"]} for each in predictor.config["backbones"]
        ],
        "random_backbones": list(predictor.random_backbones),
    }
