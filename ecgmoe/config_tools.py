"""What all configuration classes share: checks, plain values, and the difference between two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(asdict(config)))


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """The configuration that `to_dict` wrote, with every value checked again.

    An option that is younger than the file has its default, which is what was done before there was one.

    Raises:
        ValueError: a value has the wrong type, or an option is unknown or out of range.
    """
    from pydantic import TypeAdapter

    config = TypeAdapter(kind).validate_python(values)
    # pydantic passes over keys it does not know, but an option that would be ignored is an error.
    read = to_dict(config)
    lost = differing_keys(values, _as_far_as(read, values))
    require(not lost, f"options that this version does not read alike: {'; '.join(lost)}")
    return config


def _as_far_as(read: Any, values: Any) -> Any:
    """What was read, with those keys alone that the file has."""
    if isinstance(read, Mapping) and isinstance(values, Mapping):
        return {key: _as_far_as(read[key], value) for key, value in values.items() if key in read}
    if isinstance(read, list) and isinstance(values, list) and len(read) == len(values):
        return [_as_far_as(*pair) for pair in zip(read, values, strict=True)]
    return read


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each leaf that differs between two plain configurations, as "key: old -> new"."""
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differing_keys(before, after, f"{prefix}{key}.")
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            lines += differing_keys(_numbered(before), _numbered(after), f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines


def _numbered(values: list[Any]) -> dict[str, Any]:
    return {str(position): value for position, value in enumerate(values)}
