"""A model in a folder: model.safetensors and config.json, all that predict needs, loadable without Ray and DeepSpeed."""

from __future__ import annotations

import json
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
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.tasks import task_table

FORMAT_VERSION = 2
WEIGHTS, CONFIG = "model.safetensors", "config.json"
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
) -> dict[str, Any]:
    """The content of config.json.

    Args:
        model: sizes.
        tasks: names of the tasks.
        taxonomy: of the arrhythmia classes.
        backbones: all of them, in order.
        statistics: of the training split.
    """
    return {
        "format_version": FORMAT_VERSION,
        "tasks": list(tasks),
        "taxonomy": taxonomy,
        "classes": {task.name: list(task.classes) for task in task_table(tasks, taxonomy) if task.classes},
        "model": to_dict(model),
        "backbones": [describe(name, backbone) for name, backbone in backbones.items()],
        "statistics": json.loads(json.dumps(asdict(statistics))),
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


def load_model(folder: Path) -> tuple[ECGMoE, dict[str, Any]]:
    """The model in evaluation mode with all its backbones live, and its config.json.

    Raises:
        ModelFolderError: a file is missing, torn, or of another model; the message names it.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelFolderError(
                f"{folder} is not a model folder: {name} is missing (STORAGE/NAME/model of a finished run is one)"
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
        if config.get("format_version") != FORMAT_VERSION:
            raise ModelFolderError(
                f"{folder / CONFIG} has format version {config.get('format_version')}, this version reads {FORMAT_VERSION}"
            )
        statistics = from_dict(TrainingStatistics, config["statistics"])
        # Their weights come from this folder: the published files are not needed again.
        live = {each["name"]: rebuild(each) for each in config["backbones"]}
        model = ECGMoE(
            from_dict(ModelConfig, config["model"]),
            tasks=task_table(tuple(config["tasks"]), config["taxonomy"]),
            widths={name: backbone.width for name, backbone in live.items()},
            statistics=statistics,
            live=live,
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelFolderError(f"{folder / CONFIG} is not the configuration of a model ({error!r})") from error
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ModelFolderError(
            f"{folder / WEIGHTS} does not hold the weights of this model: {str(error)[:500]}"
        ) from error
    return model.eval(), config
