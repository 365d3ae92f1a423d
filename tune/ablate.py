"""Train what the paper's tables compare, over seeds and folds, and write the tables.

table1: backbones with untrained heads, and linear probes. table2: single backbones and ECG-MoE. table3: mixtures and
attentions. ablations: one part left out, and baselines. rq3: time and memory of one ECG for all tasks.

The same name goes on where it stopped, and finished trainings are not computed again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ecgmoe.cli import parse, run_job, take_preset
from ecgmoe.config import PRESETS, RunConfig
from ecgmoe.home import home
from ecgmoe.tuning.config import Protocol
from ecgmoe.tuning.tables import TableName, tables_of

DESCRIPTION = f"{__doc__}\n\nPresets (first word, default tiny): {', '.join(PRESETS)}."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of ablate.

    Attributes:
        tables: that are wanted.
        data: folder that prepare finished; without it, simulated ECGs.
        name: of the tables; everything lies in STORAGE/NAME.
        storage: folder or URL; $ECGMOE_HOME/runs by default.
        at_once: trainings side by side; by default as many as there is room for with their workers.
        dry_run: measure a short step of each variant, say how many trainings, hours and bytes it will take, and stop.
        protocol: seeds and folds.
        config: of ECG-MoE; the variants follow from it, and training.seed is that of each round.
    """

    tables: tuple[TableName, ...] = ("table1", "table2", "table3", "rq3")
    data: str | None = None
    name: str = "tables"
    storage: str
    at_once: int | None = None
    dry_run: bool = False
    protocol: Annotated[Protocol, tyro.conf.arg(name="")] = field(default_factory=Protocol)
    config: Annotated[RunConfig, tyro.conf.arg(name="")]


def main(argv: list[str]) -> None:
    _, preset, rest = take_preset(argv, PRESETS, "tiny")
    options = parse(Options, rest, DESCRIPTION, Options(storage=str(home() / "runs"), config=preset))
    tables = tables_of(options.config, options.tables)
    if tables:
        from ecgmoe.tuning.ablation import ablate
        from ecgmoe.workflow import DEMONSTRATION, default_data

        ablate(
            options.config,
            tables,
            options.protocol,
            data=options.data or default_data(DEMONSTRATION),
            name=options.name,
            storage=options.storage,
            wanted_at_once=options.at_once,
            dry_run=options.dry_run,
        )
    if "rq3" in options.tables and not options.dry_run:
        from ecgmoe.benchmark.rq3 import rq3

        rq3(options.config, name=options.name, storage=options.storage)


if __name__ == "__main__":
    run_job(main)
