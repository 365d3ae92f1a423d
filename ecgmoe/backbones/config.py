"""How a run names its backbones. Free of torch, so that a command line can be built from it at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["cached", "frozen", "lora", "full"]
Size = Literal["tiny", "base", "large"]

PREPROCESSING_VERSION = 1
"""Raised when downsampling, normalisation or pooling change: it is part of every feature key."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """One backbone of a run.

    Attributes:
        name: key in `backbones.registry`, e.g. "timesnet".
        size: named size of the encoder.
        mode: "cached" (features computed once by embed), "frozen" (in the graph, not trained), "full" (all weights
            train). "lora" is declared in the interface and refused until adapters are there.
        weights: path or hub id of published weights; None initialises at random from `seed`.
        seed: of the random initialisation.
        allow_random: must be set to use random weights in "cached" or "frozen" mode, where they are never trained.
        tokens: number of pooled tokens that the model sees; None takes the backbone's own.
    """

    name: str
    size: Size = "tiny"
    mode: Mode = "full"
    weights: str | None = None
    seed: int = 0
    allow_random: bool = False
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.mode == "lora":
            raise ValueError(f"backbone {self.name}: mode 'lora' is not there yet: choose cached, frozen or full")
        if self.weights is None and self.mode in ("cached", "frozen") and not self.allow_random:
            raise ValueError(
                f"backbone {self.name}: mode {self.mode!r} without weights would use random features that nothing "
                "trains: give weights=PATH, choose mode='full', or ask for it with allow_random=True"
            )
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"backbone {self.name}: tokens must be at least 1, got {self.tokens}")
