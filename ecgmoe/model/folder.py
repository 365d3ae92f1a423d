"""A model in a folder: model.safetensors and config.json, all that predict needs, loadable without Ray and DeepSpeed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.registry import describe, rebuild
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.ecg.record import LEADS, MISSING, N_SAMPLES, PREPROCESSING_VERSION, SAMPLING_RATE_HZ
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.files import CONFIG, WEIGHTS
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.model.trained_on import TrainedOn
from ecgmoe.tasks import task_table

FORMAT_VERSION = 3
OF_LOSSES = ("log_variance", "contrast_m.", "contrast_p.")


class ModelFolderError(ValueError):
    """The folder is not a model of this project, or it is torn."""


def model_config(
    model: ModelConfig,
    *,
    tasks: tuple[str, ...],
    taxonomy: str,
    backbones: Mapping[str, Backbone],
    statistics: TrainingStatistics,
    trained_on: TrainedOn | None = None,
) -> dict[str, Any]:
    """The content of config.json.

    Args:
        model: sizes.
        tasks: names of the tasks.
        taxonomy: of the arrhythmia classes.
        backbones: all of them, in order.
        statistics: of the training split.
        trained_on: that split; None where it is not known.
    """
    table = task_table(tasks, taxonomy)
    return {
        "format_version": FORMAT_VERSION,
        "tasks": list(tasks),
        "taxonomy": taxonomy,
        "classes": {task.name: list(task.classes) for task in table if task.classes},
        "units": {task.name: task.unit for task in table if task.unit},
        "preprocessing": {
            "version": PREPROCESSING_VERSION if trained_on is None else trained_on.preprocessing_version,
            "leads": list(LEADS),
            "sampling_rate_hz": SAMPLING_RATE_HZ,
            "samples": N_SAMPLES,
            "values": f"int16 microvolt, {MISSING} where a sample is missing",
        },
        "model": to_dict(model),
        "backbones": [describe(name, backbone) for name, backbone in backbones.items()],
        "statistics": json.loads(json.dumps(asdict(statistics))),
        "trained_on": None if trained_on is None else to_dict(trained_on),
    }


def save_model(folder: Path, state: dict[str, Tensor], config: dict[str, Any], cached: dict[str, Backbone]) -> None:
    """Write a model folder, without what only the losses need.

    Args:
        folder: made where it is not there.
        state: weights of the model, with the backbones that ran in the graph.
        config: as `model_config` gives it.
        cached: the other backbones, so that predict can start from a waveform.
    """
    for name, backbone in cached.items():
        state |= {f"backbones.{name}.{key}": tensor.cpu() for key, tensor in backbone.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in state.items() if not name.startswith(OF_LOSSES)}
    save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_model(folder: Path, *, foreign: bool = False) -> tuple[ECGMoE, dict[str, Any]]:
    """The model in evaluation mode with all its backbones live, and its config.json.

    Args:
        folder: of the model.
        foreign: it came from a hub: classes of backbones that are not of this package are only taken from modules that are
            imported already, because importing a module runs it.

    Raises:
        ModelFolderError: a file is missing, torn, or of another model; the message names it.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelFolderError(
                f"{folder} is not a model folder: {name} is missing (STORAGE/NAME/model of a finished run is one)"
            )
    config = read_config(folder / CONFIG)
    try:
        statistics = from_dict(TrainingStatistics, config["statistics"])
        # Their weights come from this folder: the published files are not needed again.
        live = {each["name"]: rebuild(each, only_imported=foreign) for each in config["backbones"]}
        model = ECGMoE(
            from_dict(ModelConfig, config["model"]),
            tasks=task_table(tuple(config["tasks"]), config["taxonomy"]),
            widths={name: backbone.width for name, backbone in live.items()},
            statistics=statistics,
            live=live,
        )
        model.trained_on = trained_on(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(f"{folder / CONFIG} is not the configuration of a model ({error!r})") from error
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ModelFolderError(
            f"{folder / WEIGHTS} does not hold the weights of this model: {str(error)[:500]}"
        ) from error
    return model.eval(), config


def read_config(file: Path) -> dict[str, Any]:
    """config.json of a model folder.

    Raises:
        ModelFolderError: it is torn, or of another program or version.
    """
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ModelFolderError(f"{file} is not the configuration of a model ({error!r})") from error
    if not isinstance(config, dict) or "format_version" not in config:
        raise ModelFolderError(f"{file} is not the configuration of an ecgmoe model: it has no format_version")
    if config["format_version"] != FORMAT_VERSION:
        raise ModelFolderError(
            f"{file} has format version {config['format_version']}, this version reads {FORMAT_VERSION}"
        )
    # Folders from before this was noted are of this version.
    version = config.get("preprocessing", {}).get("version", 3)
    if version != PREPROCESSING_VERSION:
        warnings.warn(
            f"{file.parent}: the model was trained on records of preprocessing version {version}, and this version makes "
            f"{PREPROCESSING_VERSION}: predictions may differ from those that it was evaluated by; evaluate it again",
            stacklevel=2,
        )
    return config


def trained_on(config: Mapping[str, Any]) -> TrainedOn | None:
    """What config.json says of the training split; None in folders from before it was noted."""
    return None if config.get("trained_on") is None else from_dict(TrainedOn, config["trained_on"])
