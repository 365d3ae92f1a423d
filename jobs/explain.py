"""Draw one ECG with what a prediction rests on: beats, experts, leads and moments. Research use only: never a diagnosis."""

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
        task: to explain: rr, age, sex, potassium or arrhythmia.
        class_name: whose log-odds are attributed to leads and moments; the likeliest class, female or abnormal without it.
        steps: gradients that are summed for leads and moments; 0 leaves these out.
        note: a line above the picture, such as "Simulated ECG", which no file tells.
        quality: which records are refused, and which leads are masked.
        reader: what recordings may leave open.
    """

    model: str
    input: str
    out: str
    task: str = "arrhythmia"
    class_name: str | None = None
    steps: int = 128
    note: str = ""
    quality: QualityPolicy = field(default_factory=QualityPolicy)
    reader: ReaderOptions = field(default_factory=ReaderOptions)


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.inference.explain_one import write_explanation

    explained = write_explanation(
        options.model,
        options.input,
        options.out,
        task=options.task,
        class_name=options.class_name,
        steps=options.steps,
        note=options.note,
        policy=options.quality,
        reader=options.reader,
    )
    for name, text in explained.explanation.lines():
        print(f"{name:<12}{text}")
    for line in explained.attribution_lines():
        print(line)
    print(f"{options.out}: research use only, never a diagnosis.")


if __name__ == "__main__":
    run_job(main)
