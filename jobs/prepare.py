"""A dataset on disk to record shards, labels, exclusions, a card and a manifest; interrupted, it goes on where it was.

python jobs/prepare.py [default | paper] --dataset ... --root ... --out ...

"paper" takes all ECGs of 10,000 patients of MIMIC-IV-ECG, chosen by a hash of their ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ecgmoe.cli import parse, run_job, take_preset
from ecgmoe.pipeline.config import PRESETS, DatasetName, PrepareConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of prepare.

    Attributes:
        dataset: which reader: simulated (as jobs/train.py makes it), mimic-iv-ecg, ptbxl, ludb, cinc2021 (any folder of
            the challenge's records), or wfdb, a folder of WFDB records or MATLAB files.
        root: folder of the dataset.
        hosp: folder of MIMIC-IV's hosp tables (patients, labevents, d_labitems); age, sex and potassium need them.
        out: folder of the prepared data.
        relabel: rewrite labels.parquet alone, from the tables and the shards that are there.
        retry_excluded: read the shards again that hold unreadable records, after their files were mended.
        config: quality policy, readers, labels and splits.
    """

    dataset: DatasetName
    root: str
    out: str
    hosp: str | None = None
    relabel: bool = False
    retry_excluded: bool = False
    config: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)


def main(argv: list[str]) -> None:
    _, preset, rest = take_preset(argv, PRESETS, "default")
    # The three without a default are asked for on the command line.
    required = {"dataset": tyro.MISSING, "root": tyro.MISSING, "out": tyro.MISSING}
    options = parse(Options, rest, __doc__ or "", Options(**required, config=preset))
    from ecgmoe.pipeline.prepare import prepare

    manifest = prepare(
        options.dataset,
        options.root,
        options.out,
        hosp=options.hosp,
        config=options.config,
        relabel=options.relabel,
        retry_excluded=options.retry_excluded,
    )
    splits = ", ".join(f"{split} {count:,}" for split, count in manifest["splits"].items())
    print(f"{options.out}: {manifest['records']:,} records ({splits}) in {manifest['shards']} shards")
    print(f"{options.out}: {manifest['excluded']:,} excluded, exclusions.parquet says why; see card.html")


if __name__ == "__main__":
    run_job(main)
