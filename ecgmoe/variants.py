"""What ECG-MoE is compared with: functions from a configuration to another of the same code.

One part left out; other mixtures in its place (paper, Table 3); one backbone with a head (Table 2); the same backbones
concatenated (the paper's multi-task baseline).
"""

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


def _mixture(name: str) -> Variant:
    # These see no beats, and so not the detector's intervals either.
    return lambda config: _model(mixture=name, paths="multi_model", late_rr=False)(_without_contrast(config))


def single_backbone(name: str) -> Variant:
    """That backbone's mean token alone under linear heads, in whatever mode the configuration has the backbone.

    Raises:
        ValueError: (of the variant) the configuration does not have it.
    """

    def alone(config: RunConfig) -> RunConfig:
        chosen = tuple(each for each in config.backbones if each.name == name)
        if not chosen:
            raise ValueError(f"there is no backbone {name!r} among {', '.join(each.name for each in config.backbones)}")
        return _mixture("concat")(replace(config, backbones=chosen))

    return alone


VARIANTS: dict[str, Variant] = {
    "ecg_moe": lambda config: config,
    **{name: _mixture(name) for name in ("moe", "time_moe", "self_attn", "cross_attn")},
    "multi_task_baseline": _mixture("concat"),
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
    prefix = "single_"
    if name.startswith(prefix):
        return single_backbone(name.removeprefix(prefix))(config)
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}: choose one of {', '.join(VARIANTS)}, or single_<backbone>")
    return VARIANTS[name](config)
