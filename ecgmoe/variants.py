"""ECG-MoE with one part left out: each ablation is a function from a configuration to another of the same code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ecgmoe.config import RunConfig

Variant = Callable[[RunConfig], RunConfig]


def _without_contrast(config: RunConfig) -> RunConfig:
    return replace(config, loss=replace(config.loss, contrastive_weight=0.0))


def _model(**changes: Any) -> Variant:
    return lambda config: replace(config, model=replace(config.model, **changes))


def _multi_model_path_alone(config: RunConfig) -> RunConfig:
    # The contrastive term compares the paths, so it goes with either.
    return _model(paths="multi_model")(_without_contrast(config))


def _periodic_path_alone(config: RunConfig) -> RunConfig:
    without = _without_contrast(config)
    return replace(without, backbones=(), model=replace(config.model, paths="periodic"))


VARIANTS: dict[str, Variant] = {
    "ecg_moe": lambda config: config,
    "no_rhythm_experts": _model(rhythm_dilations=()),
    "no_morphology_experts": _model(morphology_kernels=()),
    "no_periodic_path": _multi_model_path_alone,
    "no_multi_model_path": _periodic_path_alone,
    "no_gate": _model(gate=False),
    "no_task_conditioning": _model(task_conditioning=False),
    "no_lora": _model(lora_rank=0),
    "no_contrastive_term": _without_contrast,
}


def variant(name: str, config: RunConfig) -> RunConfig:
    """The configuration of a variant.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name](config)
