"""A model folder as files that run without this project: ONNX, and the format of `torch.export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import ecgmoe
from ecgmoe.ecg.record import LEADS, MISSING, N_SAMPLES, SAMPLING_RATE_HZ
from ecgmoe.export.check import TOLERANCE, Compared, compare, onnx_runner, program_runner, records_of
from ecgmoe.export.graph import INPUT, OPSET, ExportError, check_packages, graph_of, write_onnx, write_pt2
from ecgmoe.export.predictor import GATES, R_PEAKS, WaveformPredictor
from ecgmoe.filesystem import temporary_folder
from ecgmoe.inference.about_model import USE, AboutModel, about_model
from ecgmoe.inference.predictor import Predictor
from ecgmoe.pipeline.store import Store

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = ("onnx", "pt2")
NAME = "predictor"
ABOUT = "export.json"
"""Written last: a folder with it is whole."""

_NOT_INSIDE = (
    "reading and resampling of recordings, the quality policy (exclusion of records, masking of leads), and the sets of "
    "classes and intervals, which follow from what is said of each output"
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        files: bytes by name, in `out`.
        checks: what was compared, by format.
        not_predicted: one line about tasks that were never trained, None where there are none.
    """

    files: dict[str, int]
    checks: dict[str, Compared]
    not_predicted: str | None


def export_model(model: str, out: str, *, formats: Sequence[Format] = FORMATS, records: str | None = None) -> Exported:
    """Write a predictor, from int16 waveform to all tasks, and compare each file with the model before it is left there.

    Args:
        model: path or URL of a model folder, or hf://owner/name.
        out: path or URL of the folder to write; files of an earlier export in it are replaced.
        formats: "onnx" and "pt2".
        records: recordings to compare on, as predict takes them; None simulates some.

    Raises:
        ModelFolderError: `model` is no model folder.
        ExportError: a package is missing, a part of the model is no graph, or a file predicts something else.
        DatasetError: there are no such records.
        StorageError: `out` cannot be written.
    """
    if not formats or len(set(formats)) != len(formats):
        raise ExportError(f"formats: give each of {', '.join(FORMATS)} at most once, and at least one of them")
    if "onnx" in formats:
        check_packages()
    about = about_model(model)
    predictor = Predictor(model, torch.device("cpu"))
    whole = WaveformPredictor.of(predictor)
    store = Store(out)
    store.require_writable()
    with records_of(records) as (source, found), temporary_folder() as folder:
        graph = graph_of(whole)
        description = describe(about, predictor, whole)
        checks: dict[str, Compared] = {}
        for kind in formats:
            file = folder / f"{NAME}.{kind}"
            if kind == "onnx":
                write_onnx(graph, file, whole.output_names, description)
                checks[kind] = compare(onnx_runner(file), predictor, source, found)
            else:
                write_pt2(graph, file)
                checks[kind] = compare(program_runner(file), predictor, source, found)
        files = _put(folder, store)
    checked = {kind: {**asdict(check), "tolerance": TOLERANCE} for kind, check in checks.items()}
    store.write_json(ABOUT, {**description, "files": {n: store.sha256(n) for n in files}, "checked": checked})
    return Exported(files=files, checks=checks, not_predicted=about.not_predicted())


def _put(folder: Path, store: Store) -> dict[str, int]:
    """The files of a folder, in place of those of an earlier export."""
    store.remove(ABOUT)
    sizes = {}
    for file in sorted(folder.iterdir()):
        with store.writing(file.name) as target, file.open("rb") as source:
            while part := source.read(1 << 24):
                target.write(part)
        sizes[file.name] = file.stat().st_size
    for name in store.names():
        if name.startswith(f"{NAME}.") and name not in sizes:
            store.remove(name)
    return sizes


def describe(about: AboutModel, predictor: Predictor, whole: WaveformPredictor) -> dict[str, Any]:
    """What a file takes and gives, as plain values: the metadata of the ONNX file, and most of export.json."""
    calibration = about.calibration
    outputs: dict[str, Any] = {}
    for task in predictor.tasks:
        shape = ["batch", len(task.classes)] if task.kind == "multiclass" else ["batch"]
        said: dict[str, Any] = {"kind": task.kind, "shape": shape}
        if task.kind == "regression":
            said |= {"unit": task.unit, "half_width": calibration.half_width.get(task.name)}
        else:
            said |= {"classes": list(task.classes), "calibrated": task.name in calibration.temperature}
        if task.kind == "multiclass":
            said["threshold"] = calibration.threshold.get(task.name)
        outputs[task.name] = said
    if GATES in whole.output_names:
        experts = list(predictor.model.config.expert_names)
        outputs[GATES] = {"shape": ["batch", len(predictor.tasks), len(experts)], "experts": experts}
    outputs[R_PEAKS] = {"shape": ["batch", "peaks"], "unit": f"samples at {SAMPLING_RATE_HZ} Hz", "padding": -1}
    return {
        "use": USE,
        "ecgmoe_version": ecgmoe.__version__,
        "torch_version": torch.__version__,
        "onnx_opset": OPSET,
        "model_version": about.version,
        "input": {
            "name": INPUT,
            "type": "int16",
            "shape": ["batch", len(LEADS), N_SAMPLES],
            "unit": "microvolt",
            "sampling_rate_hz": SAMPLING_RATE_HZ,
            "leads": list(LEADS),
            "missing": MISSING,
        },
        "outputs": outputs,
        "level": about.level,
        "not_predicted": list(about.untrained),
        "not_inside": _NOT_INSIDE,
    }
