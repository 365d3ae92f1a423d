"""Export a model as files that run without this project: ONNX and torch.export. Research use only: never a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ecgmoe.cli import parse, run_job


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of export.

    Attributes:
        model: model folder, such as STORAGE/NAME/model, or hf://owner/name.
        out: folder for predictor.onnx, predictor.pt2 and export.json, which says what they take and give.
        formats: which of them to write.
        records: recordings (as predict takes them) on up to 100 of which each file is compared with the model before it is
            left there; None simulates some.
    """

    model: str
    out: str
    formats: tuple[Literal["onnx", "pt2"], ...] = ("onnx", "pt2")
    records: str | None = None


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.export.export_model import export_model

    done = export_model(options.model, options.out, formats=options.formats, records=options.records)
    if done.not_predicted:
        print(f"export: {done.not_predicted}")
    for kind, check in done.checks.items():
        worst = max(check.largest.values())
        print(f"predictor.{kind}: equal to the model on {check.records} records ({check.source}), within {worst:.1e}")
    for name, size in done.files.items():
        print(f"{options.out}/{name}: {size / 1e6:,.1f} MB")
    print(f"{options.out}/export.json says what they take and give. Research use only.")


if __name__ == "__main__":
    run_job(main)
