"""Backbones by name, in plain Python; a backbone of your own needs no entry here (`BackboneConfig.implementation`)."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ecgmoe.backbones.base import Backbone, Lora
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.provenance import Provenance
from ecgmoe.config_tools import from_dict

# Import paths, not classes: nobody needs the packages of a backbone that is not used.
BACKBONES: dict[str, str] = {
    "timesnet": "ecgmoe.backbones.timesnet:TimesNet",
    "dlinear": "ecgmoe.backbones.dlinear:DLinear",
    "moment": "ecgmoe.backbones.moment:Moment",
    "tempo": "ecgmoe.backbones.tempo:Tempo",
    "ecgfm": "ecgmoe.backbones.ecgfm:EcgFm",
}

LORA_RANK, LORA_ALPHA = 8, 16.0


def backbone_class(name: str, implementation: str | None = None) -> Any:
    """The class of a backbone.

    Args:
        name: a key of `BACKBONES`, or any other where `implementation` is given.
        implementation: "package.module:Class".

    Raises:
        ValueError: no backbone has that name, or the class cannot be imported.
    """
    if implementation is None and name not in BACKBONES:
        raise ValueError(
            f"unknown backbone {name!r}: choose one of {', '.join(sorted(BACKBONES))}, or say with implementation="
            "'package.module:Class' where yours is"
        )
    path = implementation or BACKBONES[name]
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        if implementation is None:
            raise
        raise ValueError(
            f"backbone {name!r}: {path} cannot be imported ({error}): its folder must be on PYTHONPATH, on every node"
        ) from error


def build(config: BackboneConfig) -> Backbone:
    """The backbone of a configuration, with what its mode trains: published weights, or random ones from its seed.

    The global random state is left as it was. Weights are drawn on the CPU, the same ones on every machine.

    Raises:
        ValueError: name, size or mode do not go together, or the weights do not fit (`CheckpointError`).
        ImportError: the backbone's package is not installed.
    """
    kind = backbone_class(config.name, config.implementation)
    # No GPU is touched: saving its random state would open a context on every one that is visible.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        if config.weights is not None:
            backbone = kind.from_pretrained(config.weights, config.tokens)
        else:
            backbone = kind(_architecture(kind, config))
        backbone.requires_grad_(config.mode == "full")
        if config.mode == "lora":
            backbone.add_lora(_lora(backbone, config))
    if config.gradient_checkpointing:
        backbone.checkpoint_gradients()
    return backbone


def _architecture(kind: Any, config: BackboneConfig) -> Any:
    if config.size not in kind.sizes:
        raise ValueError(f"backbone {config.name} has no size {config.size!r}: choose one of {', '.join(kind.sizes)}")
    architecture = kind.sizes[config.size]
    return architecture if config.tokens is None else replace(architecture, tokens=config.tokens)


def _lora(backbone: Backbone, config: BackboneConfig) -> Lora:
    own = backbone.own_lora or Lora(rank=LORA_RANK, alpha=LORA_ALPHA)
    return Lora(
        rank=own.rank if config.lora_rank is None else config.lora_rank,
        alpha=own.alpha if config.lora_alpha is None else config.lora_alpha,
    )


def describe(name: str, backbone: Backbone) -> dict[str, Any]:
    """All that `rebuild` needs, and where the weights came from, as plain values."""
    path = f"{type(backbone).__module__}:{type(backbone).__qualname__}"
    return {
        "name": name,
        "implementation": None if BACKBONES.get(name) == path else path,
        "architecture": backbone.describe(),
        "lora": None if backbone.lora is None else asdict(backbone.lora),
        "provenance": None if backbone.provenance is None else asdict(backbone.provenance),
    }


def rebuild(description: Mapping[str, Any], *, only_imported: bool = False) -> Backbone:
    """A backbone as `describe` told of it; its weights are to be loaded.

    Args:
        description: of the backbone.
        only_imported: import no module of another package than this one for it.

    Raises:
        ValueError: its class cannot be imported, may not be, or is no backbone.
    """
    name, path = description["name"], description["implementation"]
    module = path.partition(":")[0] if path else ""
    if only_imported and module and module.split(".")[0] != "ecgmoe" and module not in sys.modules:
        raise ValueError(f"the backbone {name!r} is the class {path}: import {module} first, if you trust it")
    kind = backbone_class(name, path)
    if Backbone not in getattr(kind, "__mro__", ()):
        raise ValueError(f"the backbone {name!r}: {path} is no class of a backbone")
    with torch.random.fork_rng(devices=[]):
        backbone = kind(from_dict(kind.architecture_type, description["architecture"]))
        if description["lora"]:
            backbone.add_lora(from_dict(Lora, description["lora"]))
    if description["provenance"]:
        backbone.provenance = from_dict(Provenance, description["provenance"])
    return backbone


def weights_digest(backbone: Backbone) -> str:
    """`digest_of_weights` of a backbone."""
    return digest_of_weights(backbone.state_dict())


def digest_of_weights(weights: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
