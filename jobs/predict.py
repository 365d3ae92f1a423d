"""Predict all tasks for WFDB records. Research use only: never a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field

from ecgmoe.cli import parse, run_job
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.reader_options import ReaderOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of predict.

    Attributes:
        model: model folder, such as STORAGE/NAME/model.
        input: a folder of WFDB records (with its subfolders), or one record.
        out: Parquet file; a record that cannot be used has nulls and a reason.
        quality: which records cannot be used, and which leads are masked.
        reader: what recordings may leave open.
    """

    model: str
    input: str
    out: str
    quality: QualityPolicy = field(default_factory=QualityPolicy)
    reader: ReaderOptions = field(default_factory=ReaderOptions)


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.inference.predict_files import write_predictions

    predicted, refused = write_predictions(options.model, options.input, options.out, options.quality, options.reader)
    print(f"{options.out}: {predicted:,} records predicted, {refused:,} without (column reason). Research use only.")


if __name__ == "__main__":
    run_job(main)
