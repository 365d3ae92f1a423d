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


ProtocolName = Literal["own", "paper"]
PAPER_SEEDS = 3
"""The paper prints a mean and a spread, and does not say of how many trainings."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which trainings stand behind each figure of a table.

    Attributes:
        seeds: of the trainings.
        folds: each patient is tested in one of them.
        folds_computed: some of them; none stands for all.
        protocol: "paper" insists on the paper's number of patients and on three seeds; "own" on nothing.
        final: train on the data's own splits and open its test split, instead of folds.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    folds: int = 5
    folds_computed: tuple[int, ...] = ()
    protocol: ProtocolName = "own"
    final: bool = False

    def __post_init__(self) -> None:
        require(bool(self.seeds) and len(set(self.seeds)) == len(self.seeds), "name each seed once, and at least one")
        require(self.folds >= 2, f"folds must be at least 2, got {self.folds}")
        wrong = sorted(set(self.folds_computed) - set(range(self.folds)))
        require(not wrong, f"folds_computed names {wrong}, and there are the folds 0 to {self.folds - 1}")
        require(not (self.final and self.folds_computed), "--final takes no folds: leave --folds-computed out")
        require(
            not self.paper or len(self.seeds) == PAPER_SEEDS,
            f"the paper's protocol has {PAPER_SEEDS} seeds, got {len(self.seeds)}: leave --seeds or --protocol out",
        )

    @property
    def paper(self) -> bool:
        """Whether it is the paper's."""
        return self.protocol == "paper"

    @property
    def computed(self) -> tuple[int, ...]:
        """The folds that are computed, in order."""
        return tuple(sorted(set(self.folds_computed))) or tuple(range(self.folds))

    def line(self) -> str:
        """What a reader must know of it."""
        if self.final:
            return "The test split was OPENED for this table by --final."
        some = "" if len(self.computed) == self.folds else f" (only fold {', '.join(map(str, self.computed))})"
        return f"{self.folds} folds by patient{some}; the test split stayed closed."
