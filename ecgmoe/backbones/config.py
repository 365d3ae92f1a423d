"""How a run names its backbones. Free of torch, so that a command line can be built from it at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ecgmoe.config_tools import require

Mode = Literal["cached", "frozen", "lora", "full"]
Size = Literal["tiny", "base", "large"]
FeatureType = Literal["fp16", "fp32"]

FEATURES_VERSION = 2
"""Raised when downsampling, normalisation or pooling change: it is part of every feature key."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """One backbone of a run.

    Attributes:
        name: timesnet, dlinear, moment, tempo or ecgfm; with `implementation` any other name.
        implementation: "package.module:Class" of a backbone of your own; None takes the one that is known by `name`.
        size: named size of the encoder; weights bring their own.
        mode: "cached" (features computed once by embed), "frozen" (in the graph, not trained), "lora" (adapters on its
            attention train, in the graph), "full" (all weights train).
        weights: path or hub id of published weights; None initialises at random from `seed`.
        seed: of the random initialisation.
        allow_random: must be set to use random weights in "cached", "frozen" or "lora" mode, where they are never trained.
        tokens: number of pooled tokens that the model sees; None takes the backbone's own.
        lora_rank: rank of the adapters in mode "lora"; None takes 8, and for TEMPO its own.
        lora_alpha: adapters are scaled by alpha / rank; None takes 16.
        gradient_checkpointing: compute activations again in the backward pass, in modes "lora" and "full".
        feature_type: of the cached features on disk.
    """

    name: str
    implementation: str | None = None
    size: Size = "tiny"
    mode: Mode = "full"
    weights: str | None = None
    seed: int = 0
    allow_random: bool = False
    tokens: int | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    gradient_checkpointing: bool = False
    feature_type: FeatureType = "fp16"

    def __post_init__(self) -> None:
        at = f"backbone {self.name}"
        require(
            re.fullmatch(r"[a-z][a-z0-9_]*", self.name) is not None, f"{at}: use lower-case letters, digits and '_'"
        )
        require(
            self.implementation is None or re.fullmatch(r"[\w.]+:\w+", self.implementation) is not None,
            f"{at}: implementation {self.implementation!r} does not name a class: write it as 'package.module:Class'",
        )
        require(
            self.weights is not None or self.mode == "full" or self.allow_random,
            f"{at}: mode {self.mode!r} without weights would use random weights that nothing trains: give weights=PATH, "
            "choose mode='full', or ask for it with allow_random=True",
        )
        require(self.tokens is None or self.tokens >= 1, f"{at}: tokens must be at least 1, got {self.tokens}")
        # An option that would be ignored is refused.
        adapters = self.lora_rank is None and self.lora_alpha is None
        require(
            adapters or self.mode == "lora", f"{at}: lora_rank and lora_alpha belong to mode 'lora', not {self.mode!r}"
        )
        require(
            self.lora_rank is None or self.lora_rank >= 1, f"{at}: lora_rank must be at least 1, got {self.lora_rank}"
        )
        require(self.lora_alpha is None or self.lora_alpha > 0, f"{at}: lora_alpha must be > 0, got {self.lora_alpha}")
        require(
            not self.gradient_checkpointing or self.mode in ("lora", "full"),
            f"{at}: gradient_checkpointing saves nothing in mode {self.mode!r}, which has no backward pass",
        )
        require(
            self.feature_type == "fp16" or self.mode == "cached",
            f"{at}: feature_type is how mode 'cached' stores features, and the mode is {self.mode!r}",
        )
