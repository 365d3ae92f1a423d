"""Backbones by name, in plain Python. Another one is one file and one line: `register("mine", "package.module:Class")`."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config_tools import from_dict

# Import paths, not classes: nobody needs the packages of a backbone that is not used.
BACKBONES: dict[str, str] = {
    "timesnet": "ecgmoe.backbones.timesnet:TimesNet",
    "dlinear": "ecgmoe.backbones.dlinear:DLinear",
    "moment": "ecgmoe.backbones.moment:Moment",
}


def register(name: str, path: str) -> None:
    """Make a backbone known as `name`; `path` is "package.module:Class".

    Raises:
        ValueError: the path has another form.
    """
    if path.count(":") != 1:
        raise ValueError(f"backbone {name!r}: {path!r} does not name a class: write it as 'package.module:Class'")
    BACKBONES[name] = path


def backbone_class(name: str) -> Any:
    """The class of a backbone.

    Raises:
        ValueError: no backbone has that name.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}: choose one of {', '.join(sorted(BACKBONES))}, or register it")
    module, _, attribute = BACKBONES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def build(config: BackboneConfig) -> Backbone:
    """The backbone of a configuration: published weights, or random ones from its seed.

    The global random state is left as it was. Weights are drawn on the CPU, the same ones on every machine.

    Raises:
        ValueError: the name or the size is unknown, or the weights do not fit (`CheckpointError`).
        ImportError: the backbone's package is not installed.
    """
    kind = backbone_class(config.name)
    if config.weights is not None:
        # Constructing draws random weights even where the file replaces all of them.
        with torch.random.fork_rng(devices=[]):
            return kind.from_pretrained(config.weights, config.tokens)
    if config.size not in kind.sizes:
        raise ValueError(f"backbone {config.name} has no size {config.size!r}: choose one of {', '.join(kind.sizes)}")
    architecture = kind.sizes[config.size]
    if config.tokens is not None:
        architecture = replace(architecture, tokens=config.tokens)
    # No GPU is touched: saving its random state would open a context on every one that is visible.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return kind(architecture)


def rebuild(name: str, description: Mapping[str, Any]) -> Backbone:
    """A backbone of the architecture that `Backbone.describe` told; its weights are to be loaded."""
    kind = backbone_class(name)
    with torch.random.fork_rng(devices=[]):
        return kind(from_dict(kind.architecture_type, description))


def weights_digest(backbone: Backbone) -> str:
    """sha256 over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        values = tensor.detach().cpu()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
