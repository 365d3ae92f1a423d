"""What ECG-MoE is compared with: functions from a configuration to another of the same code.

One part left out; other mixtures in its place (paper, Table 3); one backbone with a head (Table 2), its linear probe and an
untrained head (Table 1); the same backbones concatenated (the paper's multi-task baseline); a plain residual network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RESIDUAL_NETWORK, RunConfig

Variant = Callable[[RunConfig], RunConfig]


def _without_contrast(config: RunConfig) -> RunConfig:
    return replace(config, loss=replace(config.loss, contrastive_weight=0.0))


def _model(**changes: Any) -> Variant:
    return lambda config: replace(config, model=replace(config.model, **changes))


def _multi_model_path_alone(config: RunConfig) -> RunConfig:
    # The contrastive term compares the paths, so it goes with either.
    return _model(paths="multi_model", gate_temperature=1.0)(_without_contrast(_without_balance(config)))


def with_backbones(config: RunConfig, backbones: tuple[BackboneConfig, ...], **changes: Any) -> RunConfig:
    """These backbones alone, with the pre-training of those that have it."""
    trained = {each.name for each in backbones if each.mode == "full"}
    names = tuple(name for name in config.pretraining.backbones if name in trained)
    pretraining = replace(config.pretraining, backbones=names, epochs=config.pretraining.epochs if names else 0)
    return replace(config, backbones=backbones, pretraining=pretraining, **changes)


def _periodic_path_alone(config: RunConfig) -> RunConfig:
    without = _without_late_heads(_without_contrast(_without_cost(config)))
    return with_backbones(without, (), model=replace(without.model, paths="periodic", backbones_per_record=0))


def _without_balance(config: RunConfig) -> RunConfig:
    return replace(config, loss=replace(config.loss, load_balance_weight=0.0))


def _without_cost(config: RunConfig) -> RunConfig:
    return replace(config, loss=replace(config.loss, backbone_cost_weight=0.0))


def _mixture(name: str, *, gated: bool = False) -> Variant:
    # These see no beats, and so not the detector's intervals either; without a gate there is no load to balance.
    return lambda config: _model(
        mixture=name, paths="multi_model", late_rr=False, gate_temperature=1.0, backbones_per_record=0
    )(_without_cost(_without_contrast(config if gated else _without_balance(config))))


def _ungated(config: RunConfig) -> RunConfig:
    return _model(gate=False, gate_temperature=1.0)(_without_balance(config))


def _without_late_heads(config: RunConfig) -> RunConfig:
    # One backbone with no late one beside it would leave the gate nothing to weigh.
    count = 2 if config.model.backbones_per_record == 1 else config.model.backbones_per_record
    return _model(late_backbones=(), late_weight=1.0, backbones_per_record=count)(config)


def _concatenation(config: RunConfig) -> RunConfig:
    # Its heads read every backbone's mean token already.
    return _mixture("concat")(_without_late_heads(config))


def _alone(config: RunConfig, backbones: tuple[BackboneConfig, ...]) -> RunConfig:
    return with_backbones(_concatenation(config), backbones)


def _residual_network(config: RunConfig) -> RunConfig:
    return _alone(config, (RESIDUAL_NETWORK,))


def _single_backbone(name: str, config: RunConfig) -> RunConfig:
    """That backbone's mean token alone under linear heads, in whatever mode the configuration has the backbone."""
    chosen = tuple(each for each in config.backbones if each.name == name)
    if not chosen:
        raise ValueError(f"there is no backbone {name!r} among {', '.join(each.name for each in config.backbones)}")
    return _alone(config, chosen)


def _probe(name: str, config: RunConfig) -> RunConfig:
    """A linear probe: that backbone with the weights that it starts from, under linear heads that train."""
    alone = _single_backbone(name, config)
    start = alone.backbones[0]
    if start.mode != "frozen":
        start = replace(
            start,
            mode="cached",
            allow_random=start.weights is None,
            lora_rank=None,
            lora_alpha=None,
            gradient_checkpointing=False,
        )
    return with_backbones(alone, (start,))


def _untrained(name: str, config: RunConfig) -> RunConfig:
    """What the paper calls zero-shot: that backbone through heads as they were initialised, which is chance."""
    probe = _probe(name, config)
    return replace(probe, training=replace(probe.training, epochs=0))


VARIANTS: dict[str, Variant] = {
    "ecg_moe": lambda config: config,
    **{name: _mixture(name, gated=True) for name in ("moe", "time_moe")},
    **{name: _mixture(name) for name in ("self_attn", "cross_attn")},
    "multi_task_baseline": _concatenation,
    "residual_network": _residual_network,
    "no_rhythm_experts": _model(rhythm_dilations=()),
    "no_morphology_experts": _model(morphology_kernels=()),
    "no_periodic_path": _multi_model_path_alone,
    "no_multi_model_path": _periodic_path_alone,
    "no_late_backbones": _without_late_heads,
    "two_backbones_per_record": _model(backbones_per_record=2),
    "no_gate": _ungated,
    "no_task_conditioning": _model(task_conditioning=False),
    "no_lora": _model(lora_rank=0),
    "no_contrastive_term": _without_contrast,
}
OF_A_BACKBONE: dict[str, Callable[[str, RunConfig], RunConfig]] = {
    "single": _single_backbone,
    "probe": _probe,
    "untrained": _untrained,
}
"""Variants of one backbone of the configuration, as in `probe_moment`."""


def variant(name: str, config: RunConfig) -> RunConfig:
    """The configuration of a variant.

    Raises:
        ValueError: there is none of that name, or the configuration does not have the backbone.
    """
    if name in VARIANTS:
        return VARIANTS[name](config)
    kind, _, backbone = name.partition("_")
    if kind in OF_A_BACKBONE:
        return OF_A_BACKBONE[kind](backbone, config)
    alone = ", ".join(f"{kind}_<backbone>" for kind in OF_A_BACKBONE)
    raise ValueError(f"unknown variant {name!r}: choose one of {', '.join(VARIANTS)}, {alone}")
