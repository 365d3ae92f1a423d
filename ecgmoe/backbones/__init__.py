"""The backbones: one encoder per file behind the interface of `base.py`, found by name through `registry.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecgmoe.backbones.config import BackboneConfig

if TYPE_CHECKING:
    from ecgmoe.backbones.base import Architecture, Backbone
    from ecgmoe.backbones.official import convert, load_official

__all__ = ["Architecture", "Backbone", "BackboneConfig", "convert", "load_official"]

# Imported when asked for: a command line is built from BackboneConfig alone and must not wait for torch.
_HOMES = {"Architecture": "base", "Backbone": "base", "convert": "official", "load_official": "official"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
