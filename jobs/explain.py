"""Draw one ECG with what a model read of it, and print the predictions. Research use only: never a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field

from ecgmoe.cli import parse, run_job
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.reader_options import ReaderOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of explain.

    Attributes:
        model: model folder, such as STORAGE/NAME/model.
        input: one WFDB record, or one MATLAB file.
        out: PNG file.
        task: whose weights of the beats are drawn: rr, age, sex, potassium or arrhythmia.
        note: a line above the picture, such as "Simulated ECG", which no file tells.
        quality: which records are refused, and which leads are masked.
        reader: what recordings may leave open.
    """

    model: str
    input: str
    out: str
    task: str = "arrhythmia"
    note: str = ""
    quality: QualityPolicy = field(default_factory=QualityPolicy)
    reader: ReaderOptions = field(default_factory=ReaderOptions)


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.inference.explain_file import write_explanation

    explanation = write_explanation(
        options.model,
        options.input,
        options.out,
        task=options.task,
        note=options.note,
        policy=options.quality,
        reader=options.reader,
    )
    for name, text in explanation.lines():
        print(f"{name:<12}{text}")
    print(f"{options.out}: research use only, never a diagnosis.")


if __name__ == "__main__":
    run_job(main)
