"""A training that begins with the weights of another model, not with random ones.

All of them are taken, but for the features that embed computed and for what the losses alone need, so model and run must have
the same parts. STORAGE/NAME/start keeps the model from the first start on: a run that goes on does not depend on the folder
that it came from.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.provenance import Provenance
from ecgmoe.backbones.registry import backbone_class, describe, digest_of_weights, weights_digest
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import differing_keys, from_dict, to_dict
from ecgmoe.filesystem import temporary_folder
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.files import CONFIG, WEIGHTS
from ecgmoe.model.folder import OF_LOSSES, ModelFolderError, read_config, trained_on
from ecgmoe.model.reconstruction import require_along_time
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.model.trained_on import TrainedOn
from ecgmoe.pipeline.store import Store
from ecgmoe.training.build import build_backbones, build_model

FOLDER = "start"
BESIDE_ADAPTERS = ".base_layer."
"""What peft puts into the name of a weight that it puts an adapter beside."""
ADAPTER = ".lora_"
PARTS = ("tasks", "taxonomy", "model", "backbones", "statistics")
"""Of a model's config.json."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run has to know of the model that it begins with.

    Attributes:
        statistics: by which its inputs and targets are scaled, and so those of the run.
        trained_on: its training split; None where its folder does not say.
        provenance: of its backbones' weights, by name; None where they began as random ones.
    """

    statistics: TrainingStatistics
    trained_on: TrainedOn | None
    provenance: Mapping[str, Provenance | None]

    def scaling(self, own: TrainingStatistics) -> TrainingStatistics:
        """Its statistics, without which its weights mean nothing, with what of the run's own has to stand instead.

        That are class weights, which only the loss has, and the scale of targets that it was never trained on: it has none.
        """
        never = () if self.trained_on is None else self.trained_on.untrained
        new = [task for task in never if task in own.target_mean]
        return replace(
            self.statistics,
            class_weights=own.class_weights,
            target_mean=self.statistics.target_mean | {task: own.target_mean[task] for task in new},
            target_std=self.statistics.target_std | {task: own.target_std[task] for task in new},
        )


def with_whole_path(config: RunConfig) -> RunConfig:
    """The same start by its whole path: a process of Ray Tune has another working directory."""
    return config if config.start_from is None else replace(config, start_from=Store(config.start_from).root)


def check_start(config: RunConfig) -> None:
    """Refuse a model that the run cannot begin with, and a pre-training that its backbones cannot have.

    Raises:
        ModelFolderError: it is no model folder.
        ValueError: it has other tasks, backbones or sizes than the run; the message names them.
    """
    for each in config.backbones:
        if each.name in config.pretraining.backbones:
            require_along_time(each.name, backbone_class(each.name, each.implementation))
    if config.start_from is not None:
        with _here(Store(config.start_from)) as folder:
            _check(config, folder)


def keep_start(config: RunConfig, run: Store) -> Start | None:
    """Copy the model that a run begins with into its folder, unless it has begun.

    Returns:
        What the run has to know of it; None where it begins with random weights.

    Raises:
        As `check_start`, and StorageError where the run's folder cannot be written.
    """
    if config.start_from is None:
        return None
    if not run.exists("config.json"):
        with _here(Store(config.start_from)) as folder:
            _check(config, folder)
            print(
                f"starting from {config.start_from}{_other_options(config, read_config(folder / CONFIG))}", flush=True
            )
            for name in (CONFIG, WEIGHTS):
                with run.writing(f"{FOLDER}/{name}") as target, (folder / name).open("rb") as file:
                    shutil.copyfileobj(file, target)
    return start_of(run)


def start_of(run: Store) -> Start:
    """What the model in a run's `FOLDER` says of itself."""
    about = run.read_json(f"{FOLDER}/{CONFIG}")
    return Start(
        statistics=from_dict(TrainingStatistics, about["statistics"]),
        trained_on=trained_on(about),
        provenance={
            each["name"]: from_dict(Provenance, each["provenance"]) if each["provenance"] else None
            for each in about["backbones"]
        },
    )


def load_start(model: ECGMoE, run: Store) -> None:
    """Give a model, as the run builds it, the weights in the run's `FOLDER`."""
    with _here(run / FOLDER) as folder:
        found = load_file(folder / WEIGHTS)
    own: dict[str, Tensor] = model.state_dict()
    model.load_state_dict({key: found.get(_stored_as(key, found), value) for key, value in own.items()})


@contextlib.contextmanager
def _here(source: Store) -> Iterator[Path]:
    """The model folder on this machine."""
    missing = [name for name in (CONFIG, WEIGHTS) if not source.exists(name)]
    if missing:
        raise ModelFolderError(
            f"a run cannot start from {source.root}: it has no {' and no '.join(missing)} (STORAGE/NAME/model of a finished "
            "run is a model folder)"
        )
    if source.local:
        yield Path(source.root)
        return
    with temporary_folder() as folder:
        for name in (CONFIG, WEIGHTS):
            source.download(name, folder / name)
        yield folder


def _stored_as(key: str, found: Mapping[str, Any]) -> str:
    """The name in a model file of a weight of the run: adapters may be new beside it."""
    return key if key in found else key.replace(BESIDE_ADAPTERS, ".")


def _check(config: RunConfig, folder: Path) -> None:
    about = read_config(folder / CONFIG)
    if lost := [key for key in PARTS if key not in about]:
        raise ModelFolderError(f"{folder / CONFIG} is not the configuration of a model: it has no {', '.join(lost)}")
    _check_tasks(config, folder, about)
    backbones = build_backbones(config)
    _check_backbones(folder, about, backbones)
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            for each in config.cached:
                own = f"backbones.{each.name}."
                weights = {key.removeprefix(own): file.get_tensor(key) for key in shapes if key.startswith(own)}
                if digest_of_weights(weights) != weights_digest(backbones[each.name]):
                    raise ValueError(
                        f"the backbone {each.name} of {folder} has other weights than those that its cached features come "
                        "from: give its --backbones.N.weights or seed, or another mode than cached"
                    )
    except SafetensorError as error:
        raise ModelFolderError(f"{folder / WEIGHTS} is torn ({error}): fetch it again") from error
    model = build_model(config, from_dict(TrainingStatistics, about["statistics"]), backbones)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items() if not key.startswith(OF_LOSSES)}
    computed = tuple(f"backbones.{each.name}." for each in config.cached)
    found = {key: shape for key, shape in shapes.items() if not key.startswith(computed)}
    if other := _differences(found, wanted):
        raise ValueError(
            f"the weights of {folder} do not fit this run: {'; '.join(other[:3])}{' ...' if other[3:] else ''}"
            f"{_other_options(config, about)}: take those of its config.json"
        )


def _other_options(config: RunConfig, about: Mapping[str, Any]) -> str:
    """The model's that differ, for the end of a sentence: some make another function of weights of the same shapes."""
    options = differing_keys(about["model"], to_dict(config.model), "model.")
    return f"; options that differ: {'; '.join(options)}" if options else ""


def _differences(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What of a model file does not fit the weights that a run has, by names and shapes; new adapters may be missing there."""
    lines, known = [], set()
    for key, shape in wanted.items():
        stored = _stored_as(key, found)
        known.add(stored)
        if found.get(stored) != shape and (ADAPTER not in key or stored in found):
            lines.append(f"{key} is {found.get(stored, 'missing')} there and {shape} here")
    return lines + [f"{key} is not of this run" for key in found if key not in known]


def _check_tasks(config: RunConfig, folder: Path, about: Mapping[str, Any]) -> None:
    tasks, taxonomy = about["tasks"], about["taxonomy"]
    if tasks != [task.name for task in config.task_table()] or taxonomy != config.taxonomy:
        raise ValueError(
            f"the model {folder} has the tasks {', '.join(tasks)} (classes {taxonomy}) and this run {', '.join(config.tasks)} "
            f"({config.taxonomy}): train with --tasks {' '.join(tasks)} --taxonomy {taxonomy}; a task may be without labels"
        )


def _check_backbones(folder: Path, about: Mapping[str, Any], backbones: Mapping[str, Backbone]) -> None:
    there = {each["name"]: each for each in about["backbones"]}
    if list(there) != list(backbones):
        raise ValueError(
            f"the model {folder} has the backbones {', '.join(there) or 'none'} and this run {', '.join(backbones) or 'none'}: "
            "start with the preset or the backbones that it was trained with"
        )
    for name, backbone in backbones.items():
        own = json.loads(json.dumps(describe(name, backbone)))
        parts = ["implementation", "architecture"]
        # Adapters may come new, but those that are there have to find their place.
        parts += ["lora"] if there[name]["lora"] else []
        theirs, ours = ({part: each[part] for part in parts} for each in (there[name], own))
        if lines := differing_keys(theirs, ours):
            raise ValueError(
                f"the backbone {name} of {folder} is another one than this run's ({'; '.join(lines)}): give its size, mode and "
                "LoRA options"
            )
