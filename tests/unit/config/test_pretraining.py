"""Which pre-trainings a configuration may have, and what of it a variant keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ecgmoe.config import RunConfig, tiny
from ecgmoe.training.config import PretrainingConfig
from ecgmoe.variants import variant

NAME = "residual_network"


def config(**changed: Any) -> RunConfig:
    return replace(tiny(), **{"pretraining": PretrainingConfig(backbones=(NAME,), epochs=3), **changed})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 3}, r"pretraining of no backbone over 3 epochs: name some with pretraining\.backbones"),
        ({"epochs": -1}, r"pretraining\.epochs must be at least 0"),
        ({"epochs": 1, "backbones": (NAME,), "learning_rate": 0.0}, r"pretraining\.learning_rate must be > 0"),
    ],
)
def test_half_a_pretraining_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainingConfig(**options)


def test_without_epochs_there_is_none_whatever_is_named() -> None:
    none = replace(tiny().pretraining, epochs=0)
    assert none == PretrainingConfig()
    # And so it stands in nobody's way.
    config(pretraining=none, start_from="runs/first/model")
    config(
        pretraining=none,
        backbones=tiny().backbones[:-1],
        model=replace(tiny().model, late_backbones=(), late_weight=1.0),
    )


@pytest.mark.parametrize("name", ["moment", "unknown"])
def test_only_backbones_that_train_whole_learn_by_it(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"names {name}, and only those in mode full .* timesnet, dlinear, residual_network"
    ):
        config(pretraining=PretrainingConfig(backbones=(name,), epochs=1))


def test_a_model_to_start_from_is_not_pretrained() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        config(start_from="runs/first/model")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("residual_network", (NAME,)),
        ("single_residual_network", (NAME,)),
        ("no_lora", (NAME,)),
        ("moe", (NAME,)),
        ("no_multi_model_path", ()),
        ("single_timesnet", ()),
        ("probe_residual_network", ()),
        ("untrained_moment", ()),
    ],
)
def test_a_variant_keeps_what_its_backbones_have_of_it(name: str, kept: tuple[str, ...]) -> None:
    found = variant(name, config()).pretraining
    assert found.backbones == kept
    assert found.epochs == (3 if kept else 0)
