"""Reading published weights: safetensors or torch files without code in them, and strictly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

SHOWN = 3


class CheckpointError(ValueError):
    """The file is not a checkpoint of this backbone: the message names the first keys that do not fit."""


def read_state(path: Path) -> dict[str, Tensor]:
    """A flat state dict from a safetensors or a torch file.

    Raises:
        CheckpointError: the file is missing, torn, holds more than tensors, or would execute code when loaded.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}: give the path of the file")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as weights alone ({str(error)[:200]})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is not a flat state dict of tensors")
    return state


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every key, no more and no less.

    Raises:
        CheckpointError: naming the first missing, unexpected and mis-shaped keys.
    """
    own = module.state_dict()
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(set(own) & set(state))
        if own[key].shape != state[key].shape
    ]
    faults = [
        f"{kind}: {', '.join(keys[:SHOWN])}{f' and {len(keys) - SHOWN} more' if len(keys) > SHOWN else ''}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if keys
    ]
    if faults:
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: {'; '.join(faults)}")
    module.load_state_dict(dict(state))


def size_of(state: Mapping[str, Tensor], key: str, axis: int, source: str) -> int:
    """A size of the architecture, read off a weight.

    Raises:
        CheckpointError: the key is not there, or its weight has too few axes.
    """
    if key not in state or state[key].ndim <= axis:
        raise CheckpointError(
            f"{source} has no {key} with an axis {axis}: it is not a checkpoint of this backbone (first key: "
            f"{next(iter(state), 'none')})"
        )
    return state[key].shape[axis]
