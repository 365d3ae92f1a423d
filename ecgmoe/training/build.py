"""From the configuration to the model of one rank."""

from __future__ import annotations

import torch

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.registry import build
from ecgmoe.config import RunConfig
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.statistics import TrainingStatistics


def build_backbones(config: RunConfig) -> dict[str, Backbone]:
    """All backbones of the run in its order, each with gradients where its mode trains."""
    return {each.name: build(each) for each in config.backbones}


def build_model(config: RunConfig, statistics: TrainingStatistics, backbones: dict[str, Backbone]) -> ECGMoE:
    """The model with its live backbones, the same on every rank (random numbers from the run's seed)."""
    cached = {each.name for each in config.cached}
    # The CPU's generator alone: forking all would open a context on every GPU of the machine.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.training.seed)
        return ECGMoE(
            config.model,
            tasks=config.task_table(),
            widths={name: backbone.width for name, backbone in backbones.items()},
            statistics=statistics,
            live={name: backbone for name, backbone in backbones.items() if name not in cached},
            contrast=config.loss.contrastive_weight > 0,
            learnt_weights=config.loss.task_weighting == "uncertainty",
        )
