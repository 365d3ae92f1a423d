"""A model folder as a function from records to predictions in their units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ecgmoe.config_tools import from_dict
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.filesystem import temporary_folder
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.files import CALIBRATION, CONFIG, WEIGHTS
from ecgmoe.model.folder import ModelFolderError, load_model
from ecgmoe.model.output import Output
from ecgmoe.pipeline.store import Store


def check_model(folder: str) -> None:
    """Refuse at once what is not a model folder, before any worker starts.

    Raises:
        ModelFolderError: naming the file that is missing.
    """
    store = Store(folder)
    for name in (CONFIG, WEIGHTS):
        if not store.exists(name):
            raise ModelFolderError(
                f"{folder} is not a model folder: {name} is missing (STORAGE/NAME/model of a finished run is one)"
            )


class Predictor:
    """Predicts the tasks of a model.

    Args:
        folder: path or URL of a model folder.
        device: None takes a GPU where there is one.
        calibrated: probabilities are those that the folder's calibration.json makes of the model's, where it has one.
        untrained: predict tasks too of which training had no label. What a model says of them means nothing, and nobody
            but a measurement should be told.

    Attributes:
        tasks: what it predicts.
        calibration: of the folder; an empty one where it has none.

    Raises:
        ModelFolderError: the folder is not a model, or it is torn.
    """

    def __init__(
        self, folder: str, device: torch.device | None = None, *, calibrated: bool = True, untrained: bool = False
    ) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        store = Store(folder)
        if store.local:
            self.model, self.config = load_model(Path(store.root))
        else:
            with temporary_folder() as local:
                for name in (CONFIG, WEIGHTS):
                    store.download(name, local / name)
                # What somebody else put there must not choose which modules are run.
                self.model, self.config = load_model(local, foreign=store.root.startswith("hf://"))
        self.model.to(self.device).computes_chosen_only = True
        never = () if untrained or self.model.trained_on is None else self.model.trained_on.untrained
        self.tasks = tuple(task for task in self.model.tasks if task.name not in never)
        self._only = [task.name for task in self.tasks] if never else None
        self.calibration = read_calibration(store)
        self.calibrated = calibrated

    @property
    def random_backbones(self) -> tuple[str, ...]:
        """Backbones that started from random weights: the model folder tells where the others' came from."""
        return tuple(each["name"] for each in self.config["backbones"] if not each["provenance"])

    def __call__(self, batch: ECGBatch) -> dict[str, npt.NDArray[np.float32]]:
        """By task: (B,) ms or years, (B,) probability of the class 1, or (B, classes) probabilities."""
        return self.with_routing(batch)[0]

    @torch.inference_mode()
    def output(self, batch: ECGBatch) -> Output:
        """What one pass gives, with all of its routing, on the predictor's device."""
        return self.model(batch.to(self.device), self._only)

    @torch.inference_mode()
    def with_routing(
        self, batch: ECGBatch
    ) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, npt.NDArray[np.float32]]]:
        """Predictions, and by task the gate over the experts (B, E); no gates where the model has no experts."""
        output = self.output(batch)
        values = self.in_units(output)
        if output.routing.experts is None:
            return values, {}
        gates = output.routing.experts.float().expand(-1, len(self.tasks), -1).cpu().numpy()
        return values, {task.name: gates[:, p] for p, task in enumerate(self.tasks)}

    def in_units(self, output: Output) -> dict[str, npt.NDArray[np.float32]]:
        """Predictions of a pass, by task as `__call__` gives them."""
        values = {name: value.cpu().numpy() for name, value in self.model.in_units(output.predictions).items()}
        if not self.calibrated:
            return values
        return {task.name: self.calibration.probabilities(task, values[task.name]) for task in self.tasks}


def read_calibration(model: Store) -> Calibration:
    """That of a model folder; an empty one where it has none.

    Raises:
        ModelFolderError: it is not a calibration.
    """
    if not model.exists(CALIBRATION):
        return Calibration()
    try:
        return from_dict(Calibration, model.read_json(CALIBRATION))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f"{model.path(CALIBRATION)} is not a calibration ({error}): delete it, and jobs/evaluate.py makes it again"
        ) from error
