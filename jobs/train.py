"""Train ECG-MoE and evaluate it: everything that it needs is made first, and what is done and unchanged is skipped.

Without --data, ECGs are simulated and prepared under $ECGMOE_HOME (else the user's data folder). The same run name goes
on where it stopped, on another number of workers or at another ZeRO stage too; any other change under that name is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ecgmoe.cli import parse, run_job, take_preset
from ecgmoe.config import PRESETS, RunConfig
from ecgmoe.home import home
from ecgmoe.variants import variant

DESCRIPTION = f"{__doc__}\n\nPresets (first word, default tiny): {', '.join(PRESETS)}."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of train.

    Attributes:
        data: folder that prepare finished; without it, simulated ECGs.
        run: name of the run; that of the preset, and of the variant, by default.
        storage: folder or URL that holds runs; $ECGMOE_HOME/runs by default.
        variant: what ECG-MoE is compared with, made from the configuration: moe, time_moe, self_attn, cross_attn,
            multi_task_baseline, residual_network, no_<part>, and single_, probe_ or untrained_<backbone>; see MODEL.md.
        config: what the run computes.
    """

    data: str | None = None
    run: str | None = None
    storage: str
    variant: str = "ecg_moe"
    config: Annotated[RunConfig, tyro.conf.arg(name="")]


def main(argv: list[str]) -> None:
    name, preset, rest = take_preset(argv, PRESETS, "tiny")
    options = parse(Options, rest, DESCRIPTION, Options(storage=str(home() / "runs"), config=preset))
    config = variant(options.variant, options.config)
    from ecgmoe.workflow import run

    own = name if options.variant == "ecg_moe" else f"{name}-{options.variant}"
    run(config, name=options.run or own, storage=options.storage, data=options.data)


if __name__ == "__main__":
    run_job(main)
