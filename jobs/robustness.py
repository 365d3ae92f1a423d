"""Measure finished runs on records with noise, missing leads and other faults: curves of one run beside others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ecgmoe.cli import parse, run_job
from ecgmoe.home import home


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of robustness.

    Attributes:
        runs: names of runs, trained on the same data; the first is the one that the others stand beside.
        storage: folder or URL that holds runs; $ECGMOE_HOME/runs by default.
        data: prepared folder; the one that the runs were trained on by default.
        split: which records; "all" takes those of every split of other data. Records that training met are left out there.
        seed: of the perturbations; the same one gives the same records.
        perturbations: baseline_wander, muscle_noise, mains, missing_leads, lead_swap, gain, cut, premature_beats; all of
            them by default.
        out: folder; STORAGE/<first run>/robustness by default. The same command goes on from what is there.
    """

    runs: tuple[str, ...]
    storage: str | None = None
    data: str | None = None
    split: Literal["validation", "test", "all"] = "test"
    seed: int = 0
    perturbations: tuple[str, ...] | None = None
    out: str | None = None


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.robustness import robustness

    robustness(
        options.runs,
        options.storage or str(home() / "runs"),
        options.data,
        split=options.split,
        seed=options.seed,
        perturbations=options.perturbations,
        out=options.out,
    )


if __name__ == "__main__":
    run_job(main)
