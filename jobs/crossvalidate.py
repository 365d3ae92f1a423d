"""Compare models on all patients of a prepared folder by cross-validation; its test split stays closed.

The same name goes on where it stopped, and finished trainings are not computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ecgmoe.cli import parse, run_job, take_preset
from ecgmoe.config import PRESETS, RunConfig
from ecgmoe.home import home

DESCRIPTION = f"{__doc__}\n\nPresets (first word, default tiny): {', '.join(PRESETS)}."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of crossvalidate.

    Attributes:
        data: folder that prepare finished.
        name: of the comparison; everything lies in STORAGE/NAME.
        storage: folder or URL; $ECGMOE_HOME/runs by default.
        variants: what is trained, as in jobs/train.py --variant; the others are compared with the first.
        folds: each patient is tested in one of them.
        seeds: of the trainings; each trains all folds anew.
        at_once: trainings side by side; by default as many as there is room for with their workers.
        earlier: folders `results` of other cross-validations of this kind, on whatever machine: what they have is not trained
            again.
        config: of ECG-MoE; training.seed is each of `seeds`.
    """

    data: str
    name: str = "crossvalidation"
    storage: str
    variants: tuple[str, ...] = ("ecg_moe", "residual_network")
    folds: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)
    at_once: int | None = None
    earlier: tuple[str, ...] = ()
    config: Annotated[RunConfig, tyro.conf.arg(name="")]


def main(argv: list[str]) -> None:
    _, preset, rest = take_preset(argv, PRESETS, "tiny")
    start = Options(data=tyro.MISSING, storage=str(home() / "runs"), config=preset)
    options = parse(Options, rest, DESCRIPTION, start)
    from ecgmoe.tuning.crossvalidation import cross_validate

    cross_validate(
        options.config,
        options.variants,
        data=options.data,
        name=options.name,
        storage=options.storage,
        folds=options.folds,
        seeds=options.seeds,
        at_once=options.at_once,
        earlier=options.earlier,
    )


if __name__ == "__main__":
    run_job(main)
