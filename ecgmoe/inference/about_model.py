"""What a model folder says of itself, before its weights are loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import ecgmoe
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.inference.predictor import check_model, read_calibration
from ecgmoe.model.files import CALIBRATION, CONFIG, WEIGHTS
from ecgmoe.model.folder import ModelFolderError, trained_on
from ecgmoe.pipeline.store import Store, digest_of
from ecgmoe.tasks import Task, task_table

FILES = (CONFIG, WEIGHTS, CALIBRATION)
"""All that decides what a model predicts; the last is not in every folder."""

USE = "research use only: never a diagnosis"


@dataclass(frozen=True, kw_only=True)
class AboutModel:
    """What is known of a model without its weights.

    Attributes:
        version: the first 12 digits of a SHA-256 over its weights, configuration and calibration.
        tasks: what it predicts, in their order.
        untrained: tasks of which training had no label; they are not predicted.
        calibration: an empty one where the folder has none.
    """

    version: str
    tasks: tuple[Task, ...]
    untrained: tuple[str, ...]
    calibration: Calibration

    @property
    def level(self) -> float | None:
        """Share of patients whose truth intervals and sets are to hold; None where there are none."""
        return self.calibration.level if self.calibration.half_width or self.calibration.threshold else None

    def metadata(self) -> dict[bytes, bytes]:
        """What a file of predictions says of them."""
        content: dict[str, Any] = {
            "use": USE,
            "ecgmoe_version": ecgmoe.__version__,
            "model_version": self.version,
            "level": self.level,
            "classes": {task.name: list(task.classes) for task in self.tasks if task.classes},
        }
        return {b"ecgmoe": json.dumps(content).encode()}

    def not_predicted(self) -> str | None:
        """One line about the tasks that were never trained; None where there are none."""
        if not self.untrained:
            return None
        return f"not predicted: {', '.join(self.untrained)} (the training data of this model have no label of it)"

    def not_calibrated(self) -> str | None:
        """One line about what has no calibration; None where everything has."""
        known = {*self.calibration.temperature, *self.calibration.half_width}
        if not known:
            return (
                "the model has no calibration: there are no intervals and sets, and probabilities are the model's own"
            )
        missing = [task.name for task in self.tasks if task.name not in known]
        reasons = (f"{name} ({self.calibration.left_out.get(name, 'not in calibration.json')})" for name in missing)
        return f"not calibrated: {'; '.join(reasons)}" if missing else None


def about_model(folder: str) -> AboutModel:
    """Read what a model folder says of itself. All of its bytes are read once, for the version.

    Raises:
        ModelFolderError: it is not a model folder.
    """
    check_model(folder)
    store = Store(folder)
    try:
        config = store.read_json(CONFIG)
        tasks = task_table(tuple(config["tasks"]), config["taxonomy"])
        split = trained_on(config)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ModelFolderError(f"{store.path(CONFIG)} is not the configuration of a model ({error!r})") from error
    untrained = split.untrained if split else ()
    return AboutModel(
        version=digest_of({name: store.sha256(name) for name in FILES if store.exists(name)})[:12],
        tasks=tuple(task for task in tasks if task.name not in untrained),
        untrained=untrained,
        calibration=read_calibration(store),
    )
