"""Writing a safetensors file one tensor at a time: the library's own `save_file` wants all of them in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

TYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.bool: "BOOL",
}
"""What the format calls the types that a model's state holds here."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of the file, announced before its values are there."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def write_stream(path: Path, entries: Sequence[Entry], values: Iterable[Tensor], metadata: Mapping[str, str]) -> None:
    """Write the file; `values` is asked for one tensor at a time, in the order of `entries`, from any device.

    Raises:
        ValueError: a tensor differs from its entry, or there are more or fewer tensors than entries.
    """
    header = json.dumps({"__metadata__": dict(metadata), **_places(entries)}).encode()
    # The format aligns the data to eight bytes with spaces.
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for entry, value in zip(entries, values, strict=True):
            if value.dtype != entry.dtype or tuple(value.shape) != entry.shape:
                raise ValueError(f"{entry} got a tensor of {value.dtype} and shape {tuple(value.shape)}")
            file.write(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _places(entries: Sequence[Entry]) -> dict[str, dict[str, object]]:
    places: dict[str, dict[str, object]] = {}
    start = 0
    for entry in entries:
        end = start + torch.Size(entry.shape).numel() * entry.dtype.itemsize
        places[entry.name] = {"dtype": TYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
        start = end
    return places
