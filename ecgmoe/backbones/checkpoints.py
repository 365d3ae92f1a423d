"""Reading published weights: safetensors or torch files without code in them, and strictly."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

SHOWN = 3
CONVERTED = "ecgmoe"
"""Key in the header of a safetensors file that `convert` wrote."""


class CheckpointError(ValueError):
    """The file is not a checkpoint of this backbone: the message names the first keys that do not fit."""


def official_file(source: str, *names: str, hub_file: str | None = None) -> Path:
    """The file that a user means: itself, the one in a folder, or one fetched from the hub.

    Args:
        source: path of a file or of a folder that holds it, or OWNER/REPOSITORY[/FILE] of the hub.
        names: file name patterns to look for in a folder.
        hub_file: file of the repository where the id names none; None where nothing is published.

    Raises:
        CheckpointError: it is nowhere, or a folder holds more than one.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted({file for name in names for file in path.glob(name)})
        if len(found) != 1:
            listed = ", ".join(file.name for file in found) or "none"
            raise CheckpointError(f"{path} holds {len(found)} files {' or '.join(names)} ({listed}): name the file")
        return found[0]
    parts = source.split("/")
    if path.exists() or hub_file is None or len(parts) not in (2, 3) or not all(parts):
        if not path.is_file():
            raise CheckpointError(f"no weights at {path}: give the path of the file")
        return path
    from huggingface_hub import hf_hub_download

    repository, file = "/".join(parts[:2]), parts[2] if len(parts) == 3 else hub_file
    try:
        return Path(hf_hub_download(repository, file))
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{source} is no local file, and {file} could not be fetched from {repository} on the hub "
            f"({str(error)[:200]}): give the path of a file that you downloaded"
        ) from error


def read_torch(path: Path) -> Any:
    """The content of a torch file: tensors and plain values, nothing that would run.

    Raises:
        CheckpointError: the file is missing, torn, or would execute code when loaded.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}: give the path of the file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        # torch's own advice would be to run whatever is in it.
        raise CheckpointError(
            f"{path} cannot be read as weights alone: it is torn, of another kind, or holds code (none of it was run)"
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """A flat state dict from a safetensors or a torch file.

    Raises:
        CheckpointError: the file is missing, torn, holds more than tensors, or would execute code when loaded.
    """
    if path.suffix == ".safetensors" and path.is_file():
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a whole safetensors file ({str(error)[:200]})") from error
    return tensors_of(read_torch(path), str(path))


def tensors_of(state: Any, source: str) -> dict[str, Tensor]:
    """`state` as a flat state dict.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{source} is not a flat state dict of tensors")
    return dict(state)


def read_converted(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights and description of a file that `convert` wrote; None where it is another kind of file, or none.

    Raises:
        CheckpointError: it is such a file, but torn or of another version.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(CONVERTED)
        return None if header is None else (load_file(path), json.loads(header))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({str(error)[:200]})") from error


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


def count_layers(state: Mapping[str, Tensor], prefix: str, source: str) -> int:
    """How many numbered layers stand under `prefix` ("encoder.layers." ...).

    Raises:
        CheckpointError: none.
    """
    numbers = {int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)}
    if not numbers:
        raise CheckpointError(
            f"{source} has no layers under {prefix}: it is not a checkpoint of this backbone (first key: "
            f"{next(iter(state), 'none')})"
        )
    return 1 + max(numbers)
