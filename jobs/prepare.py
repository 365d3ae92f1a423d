"""A dataset on disk to record shards, labels, exclusions and a manifest; an interrupted job goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ecgmoe.cli import parse, run_job
from ecgmoe.pipeline.config import DatasetName, PrepareConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of prepare.

    Attributes:
        dataset: which reader: simulated (as jobs/train.py makes it), mimic-iv-ecg, ptbxl, or a folder of WFDB records.
        root: folder of the dataset.
        hosp: folder of MIMIC-IV's hosp tables (patients, labevents, d_labitems); age, sex and potassium need them.
        out: folder of the prepared data.
        relabel: rewrite labels.parquet alone, from the tables and the shards that are there.
        config: quality policy, labels and splits.
    """

    dataset: DatasetName
    root: str
    out: str
    hosp: str | None = None
    relabel: bool = False
    config: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.pipeline.prepare import prepare

    manifest = prepare(
        options.dataset, options.root, options.out, hosp=options.hosp, config=options.config, relabel=options.relabel
    )
    splits = ", ".join(f"{split} {count:,}" for split, count in manifest["splits"].items())
    print(f"{options.out}: {manifest['records']:,} records ({splits}) in {manifest['shards']} shards")
    print(f"{options.out}: {manifest['excluded']:,} excluded, exclusions.parquet says why")


if __name__ == "__main__":
    run_job(main)
