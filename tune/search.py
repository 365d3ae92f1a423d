"""Search options of the configuration with Ray Tune: lambda, gating, LoRA, learning rate, losses.

Each trial is a training with workers of its own. The same name goes on where it stopped. Trials are chosen on the validation
split, and the winner is trained anew with fresh seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ecgmoe.cli import parse, run_job, take_preset
from ecgmoe.config import PRESETS, RunConfig
from ecgmoe.home import home
from ecgmoe.tuning.config import SearchConfig

DESCRIPTION = f"{__doc__}\n\nPresets (first word, default tiny): {', '.join(PRESETS)}."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of search.

    Attributes:
        data: folder that prepare finished; without it, simulated ECGs.
        name: of the search; everything lies in STORAGE/NAME.
        storage: folder or URL; $ECGMOE_HOME/runs by default.
        at_once: trials side by side; by default as many as there is room for with their workers.
        dry_run: measure a short step, say how many trainings, hours and bytes it will take, and stop.
        final: evaluate the winner on the test split, which stays closed otherwise.
        search: what is varied, how often, and when a trial is given up.
        config: what is varied from.
    """

    data: str | None = None
    name: str = "search"
    storage: str
    at_once: int | None = None
    dry_run: bool = False
    final: bool = False
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = field(default_factory=SearchConfig)
    config: Annotated[RunConfig, tyro.conf.arg(name="")]


def main(argv: list[str]) -> None:
    _, preset, rest = take_preset(argv, PRESETS, "tiny")
    options = parse(Options, rest, DESCRIPTION, Options(storage=str(home() / "runs"), config=preset))
    from ecgmoe.tuning.search import search
    from ecgmoe.workflow import DEMONSTRATION, default_data

    search(
        options.config,
        options.search,
        data=options.data or default_data(DEMONSTRATION),
        name=options.name,
        storage=options.storage,
        wanted_at_once=options.at_once,
        dry_run=options.dry_run,
        final=options.final,
    )


if __name__ == "__main__":
    run_job(main)
