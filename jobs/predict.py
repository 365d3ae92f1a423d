"""Predict all tasks for ECG files. Research use only: never a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field

from ecgmoe.cli import parse, run_job
from ecgmoe.config_tools import require
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.reader_options import ReaderOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of predict.

    Attributes:
        model: model folder, such as STORAGE/NAME/model.
        input: a folder of WFDB records or MATLAB files (with its subfolders), one record, or a CSV or Parquet file with a
            column path (absolute, a URL, or relative to that file).
        out: Parquet or CSV file; a record that cannot be used has nulls and a reason.
        quality: which records cannot be used, and which leads are masked.
        reader: what recordings may leave open.
        workers: so many at once; None takes as many as there are GPUs, or CPUs where there is no GPU.
    """

    model: str
    input: str
    out: str
    quality: QualityPolicy = field(default_factory=QualityPolicy)
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    workers: int | None = None

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 1, f"workers must be at least 1, got {self.workers}")


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.inference.predict_files import write_predictions

    done = write_predictions(
        options.model,
        options.input,
        options.out,
        policy=options.quality,
        reader=options.reader,
        workers=options.workers,
    )
    for reason in done.reasons:
        print(f"without prediction: {reason}")
    print(
        f"{options.out}: {done.predicted:,} records predicted, {done.refused:,} without (column reason). Research use only."
    )


if __name__ == "__main__":
    run_job(main)
