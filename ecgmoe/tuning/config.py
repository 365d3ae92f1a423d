"""How a search runs. Free of torch and Ray, so that a command line can be built from it at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ecgmoe.config_tools import require
from ecgmoe.tuning.space import space_of

SearcherName = Literal["optuna", "random"]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What a search varies, how often, and when it gives a trial up.

    Attributes:
        space: groups of options that are varied: lambda, gating, lora, optimizer, losses.
        trials: number of them.
        searcher: "optuna" (a tree of Parzen estimators, which learns from earlier trials) or "random".
        early_stopping: end trials that are behind (ASHA, arXiv 1810.05934); without it each trains all epochs.
        grace_epochs: that each trial gets at least.
        reduction: of so many trials that reach a rung one goes on.
        seed: of the search; each trial trains with training.seed.
        winner_seeds: with which the winner is trained anew; none of them may be training.seed.
    """

    space: tuple[str, ...] = ("lambda", "gating")
    trials: int = 12
    searcher: SearcherName = "optuna"
    early_stopping: bool = True
    grace_epochs: int = 2
    reduction: int = 3
    seed: int = 0
    winner_seeds: tuple[int, ...] = (101, 102, 103)

    def __post_init__(self) -> None:
        space_of(self.space)
        require(self.trials >= 1, f"trials must be at least 1, got {self.trials}")
        require(self.grace_epochs >= 1, f"grace_epochs must be at least 1, got {self.grace_epochs}")
        require(self.reduction >= 2, f"reduction must be at least 2, got {self.reduction}")
        require(len(set(self.winner_seeds)) == len(self.winner_seeds), "winner_seeds: one is named twice")
