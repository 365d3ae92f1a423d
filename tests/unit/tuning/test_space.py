"""What a search varies, and that a configuration takes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ecgmoe.config import PRESETS
from ecgmoe.config_tools import to_dict
from ecgmoe.tuning.config import SearchConfig
from ecgmoe.tuning.space import GROUPS, LAMBDA, Choice, Range, changed, describe, require_varied, space_of
from tuning_examples import small


def test_values_reach_their_options_and_nothing_else_changes() -> None:
    config = small()
    other = changed(config, {LAMBDA: 0.5, "model.rhythm_dilations": ((1, 2),), "training.learning_rate": 1e-4})
    assert other.loss.contrastive_weight == 0.5
    assert other.model.rhythm_dilations == ((1, 2),)
    assert other.training.learning_rate == 1e-4
    back = changed(
        other,
        {
            LAMBDA: config.loss.contrastive_weight,
            "model.rhythm_dilations": config.model.rhythm_dilations,
            "training.learning_rate": config.training.learning_rate,
        },
    )
    assert back == config


@pytest.mark.parametrize("option", ["loss.lambda", "gating.width", "model", "model.width.more", "width"])
def test_an_option_that_is_not_there_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=r"no option|should be"):
        changed(small(), {option: 1})


def test_a_value_that_does_not_go_is_refused() -> None:
    with pytest.raises(ValueError, match="attention_heads must divide width"):
        changed(small(), {"model.width": 30})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("group", GROUPS)
def test_each_preset_takes_all_of_each_group(preset: str, group: str) -> None:
    require_varied(PRESETS[preset](), GROUPS[group])


def test_a_space_that_does_not_go_names_its_option() -> None:
    config = small()
    without = replace(config, model=replace(config.model, gate=False))
    with pytest.raises(ValueError, match=r"--space varies model.gate_temperature, and 0.3 does not go here"):
        require_varied(without, GROUPS["gating"])


@pytest.mark.parametrize(
    ("names", "message"), [((), "name at least one of lambda"), (("gates",), "--space gates: choose among lambda")]
)
def test_wrong_groups(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space_of(names)


def test_the_space_as_plain_values() -> None:
    assert describe({"a.b": Choice(((1, 2), (3,))), "c": Range(0.1, 1.0, log=True)}) == {
        "a.b": {"choice": [[1, 2], [3]]},
        "c": {"low": 0.1, "high": 1.0, "log": True},
    }


@pytest.mark.parametrize(("low", "high", "log"), [(1.0, 1.0, False), (2.0, 1.0, False), (0.0, 1.0, True)])
def test_wrong_ranges(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match="range"):
        Range(low, high, log)


@pytest.mark.parametrize(
    "wrong",
    [{"trials": 0}, {"grace_epochs": 0}, {"reduction": 1}, {"winner_seeds": (1, 1)}, {"space": ("lambdas",)}],
)
def test_wrong_searches(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        SearchConfig(**wrong)  # type: ignore[arg-type]


def test_the_gates_temperature_is_no_option_without_the_gate() -> None:
    with pytest.raises(ValueError, match=r"gate_temperature 2\.0 without the learnt gate"):
        replace(small().model, gate=False, gate_temperature=2.0)
    assert to_dict(small())["model"]["gate_temperature"] == 1.0
