"""Evaluate a finished run on a split: a table of its tasks with a constant and a linear baseline beside the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ecgmoe.cli import parse, run_job
from ecgmoe.home import home


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of evaluate.

    Attributes:
        run: name of the run.
        storage: folder or URL that holds runs; $ECGMOE_HOME/runs by default.
        data: prepared folder; the one that the run was trained on by default. Other data have a report of their own, which
            lists the tasks and classes that they lack, and leaves out records that the training met.
        split: which records; "test" writes the run's report, the others go beside it. "all" takes every record of other
            data: an external test needs none of their splits.
        beside: other runs of the storage, evaluated on the same records before: shown beside this one, with paired
            differences.
    """

    run: str
    storage: str | None = None
    data: str | None = None
    split: Literal["train", "validation", "test", "all"] = "test"
    beside: tuple[str, ...] = ()


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.assessment import evaluate_run

    evaluate_run(
        options.run, options.storage or str(home() / "runs"), options.data, split=options.split, beside=options.beside
    )


if __name__ == "__main__":
    run_job(main)
