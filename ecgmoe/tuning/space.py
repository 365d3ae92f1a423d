"""What a search varies: options of a configuration by name, and from where their values are drawn.

Free of torch and Ray, so that a command line can be built from it at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, require, to_dict


@dataclass(frozen=True)
class Choice:
    """One of these values, each as likely as the others.

    Attributes:
        values: JSON values; tuples for options that are tuples.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        require(len(self.values) >= 1, "a choice needs at least one value")


@dataclass(frozen=True)
class Range:
    """A number between two bounds, evenly on a linear or on a logarithmic scale.

    Attributes:
        low, high: bounds.
        log: whether the logarithm is drawn evenly.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        require(self.low < self.high, f"a range needs low < high, got {self.low} and {self.high}")
        require(self.low > 0 or not self.log, f"a logarithmic range begins above 0, got {self.low}")


Domain = Choice | Range
Space = Mapping[str, Domain]
"""Domain by dotted option, as in "loss.contrastive_weight"."""
LAMBDA = "loss.contrastive_weight"

GROUPS: dict[str, Space] = {
    "lambda": {LAMBDA: Range(0.003, 3.0, log=True)},
    "gating": {
        "model.width": Choice((32, 48, 64)),
        "model.gate_temperature": Range(0.3, 3.0, log=True),
        "model.dropout": Range(0.0, 0.5),
        "model.morphology_kernels": Choice(((3, 7), (3, 7, 15), (3, 7, 15, 31))),
        "model.rhythm_dilations": Choice((((1, 2, 4),), ((1, 2, 4), (1, 3, 9)))),
    },
    "lora": {"model.lora_rank": Choice((2, 4, 8, 16)), "model.lora_alpha": Choice((8.0, 16.0, 32.0))},
    "optimizer": {"training.learning_rate": Range(3e-4, 1e-2, log=True)},
    "losses": {
        "loss.task_weighting": Choice(("equal", "uncertainty")),
        "loss.class_balance": Range(0.0, 1.0),
        "loss.load_balance_weight": Choice((0.0, 0.01, 0.1)),
    },
}
"""What a search varies, by the names of `tune/search.py --space`."""


def space_of(groups: Sequence[str]) -> dict[str, Domain]:
    """The options of these groups together.

    Raises:
        ValueError: there is no such group, or none is named.
    """
    require(bool(groups), f"name at least one of {', '.join(GROUPS)} in --space")
    unknown = [name for name in groups if name not in GROUPS]
    require(not unknown, f"--space {', '.join(unknown)}: choose among {', '.join(GROUPS)}")
    return {option: domain for name in groups for option, domain in GROUPS[name].items()}


def changed(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The configuration with other values of some options, all checked again.

    Args:
        config: to change.
        values: by dotted option.

    Raises:
        ValueError: there is no such option, or the configuration does not take the value.
    """
    plain = to_dict(config)
    for option, value in values.items():
        *sections, name = option.split(".")
        place: Any = plain
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        require(isinstance(place, dict) and name in place, f"a configuration has no option {option!r}")
        place[name] = json.loads(json.dumps(value))
    return from_dict(RunConfig, plain)


def require_varied(config: RunConfig, space: Space) -> None:
    """Refuse a space that the configuration cannot take, before anything is trained.

    Each bound and each choice is tried on its own.

    Raises:
        ValueError: naming the option.
    """
    for option, domain in space.items():
        for value in domain.values if isinstance(domain, Choice) else (domain.low, domain.high):
            try:
                changed(config, {option: value})
            except ValueError as error:
                reason = str(error).strip().splitlines()[0]
                raise ValueError(f"--space varies {option}, and {value!r} does not go here: {reason}") from error


def describe(space: Space) -> dict[str, Any]:
    """The space as plain JSON values."""
    return {
        option: {"choice": json.loads(json.dumps(domain.values))}
        if isinstance(domain, Choice)
        else {"low": domain.low, "high": domain.high, "log": domain.log}
        for option, domain in space.items()
    }
