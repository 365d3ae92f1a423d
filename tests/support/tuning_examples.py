"""A configuration small enough for a search over it to be a test."""

from __future__ import annotations

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.model.config import ModelConfig
from ecgmoe.training.config import TrainingConfig


def small() -> RunConfig:
    """One worker, two epochs of a few steps; as a preset: `tuning_examples:small`."""
    return RunConfig(
        backbones=(BackboneConfig(name="dlinear"),),
        model=ModelConfig(width=16),
        training=TrainingConfig(num_workers=1, slots=8, global_batch=16, epochs=2),
    )
