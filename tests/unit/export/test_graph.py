"""Every kind of model is one graph, in torch and in onnxruntime, and gives what the model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ecgmoe.backbones.dlinear import DLinear
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.export import check, graph
from ecgmoe.export.check import onnx_runner
from ecgmoe.export.form import inference_form
from ecgmoe.export.graph import ExportError, graph_of, write_onnx
from ecgmoe.export.predictor import WaveformPredictor
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.ecg_moe import ECGMoE
from export_examples import BACKBONES, EveryTenth, model_of, waves
from model_examples import TASKS
from predict_examples import CALIBRATION

SIGNAL = waves(4)
LONG = pytest.mark.long

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "wide": {"width": 128, "max_beats": 5},
    "no gate": {"gate": False, "task_conditioning": False, "lora_rank": 0},
    "periodic": {"paths": "periodic", "late_rr": False, "morphology_kernels": ()},
    "multi_model": {"paths": "multi_model"},
    "one backbone per record": {"backbones_per_record": 1, "late_backbones": ("residual_network",)},
    "concat": {"paths": "multi_model", "mixture": "concat"},
    "moe": {"paths": "multi_model", "mixture": "moe"},
    "time_moe": {"paths": "multi_model", "mixture": "time_moe"},
    "self_attn": {"paths": "multi_model", "mixture": "self_attn"},
    "cross_attn": {"paths": "multi_model", "mixture": "cross_attn"},
}


def whole(model: ECGMoE, calibration: Calibration = CALIBRATION) -> WaveformPredictor:
    return WaveformPredictor(inference_form(model), model.tasks, calibration, EveryTenth()).eval()


def wanted(model: ECGMoE, signal: Tensor) -> dict[str, Any]:
    """What the model itself gives, with calibrated probabilities, and its gates."""
    nobody = torch.zeros(len(signal), dtype=torch.int64)
    batch = ECGBatch(signal=signal, r_peaks=EveryTenth()(signal), study_id=nobody, patient_id=nobody)
    with torch.inference_mode():
        output = model(batch)
        values: dict[str, Any] = {name: value.numpy() for name, value in model.in_units(output.predictions).items()}
    values = {task.name: CALIBRATION.probabilities(task, values[task.name]) for task in TASKS}
    if output.routing.experts is not None and model.config.gates_learn:
        values["gates"] = output.routing.experts.expand(-1, len(TASKS), -1).numpy()
    return {**values, "r_peaks": batch.r_peaks.numpy()}


def assert_equal(got: Any, want: dict[str, Any]) -> None:
    assert list(got) == list(want)
    for name, value in want.items():
        assert np.asarray(got[name]).dtype == value.dtype, name
        np.testing.assert_allclose(np.asarray(got[name]), value, rtol=1e-5, atol=check.TOLERANCE, err_msg=name)


def run_both(model: ECGMoE, folder: Path) -> None:
    predictor = whole(model)
    program = graph_of(predictor)
    write_onnx(program, folder / "predictor.onnx", predictor.output_names, {})
    session = onnx_runner(folder / "predictor.onnx")
    for rows in (slice(0, 4), slice(3, 4), slice(0, 3)):
        want = wanted(model, SIGNAL[rows])
        with torch.inference_mode():
            assert_equal(program.module()(SIGNAL[rows]), want)
        assert_equal(session(SIGNAL[rows].numpy()), want)


@LONG
@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_model(name: str, tmp_path: Path) -> None:
    names: tuple[str, ...] = () if name == "periodic" else ("dlinear", "residual_network")
    # A third one, or there would be nothing to leave out.
    run_both(model_of((*names, "tempo") if "backbone per" in name else names, **VARIANTS[name]), tmp_path)


@pytest.mark.parametrize(
    "names", [pytest.param((each,), marks=LONG) for each in BACKBONES] + [BACKBONES], ids=[*BACKBONES, "all"]
)
def test_every_backbone(names: tuple[str, ...], tmp_path: Path) -> None:
    run_both(model_of(names, paths="multi_model", mixture="concat"), tmp_path)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_base_size(tmp_path: Path) -> None:
    run_both(model_of(("dlinear", "timesnet", "moment", "tempo", "ecgfm"), "base", width=256), tmp_path)
    assert (tmp_path / "predictor.onnx").stat().st_size > 6e8


def test_tasks_that_were_not_trained_are_left_out() -> None:
    model = model_of(("dlinear",))
    tasks = tuple(task for task in TASKS if task.name != "potassium")
    predictor = WaveformPredictor(inference_form(model), tasks, Calibration(), EveryTenth()).eval()
    got = graph_of(predictor).module()(SIGNAL)
    assert list(got) == predictor.output_names == ["rr", "age", "sex", "arrhythmia", "gates", "r_peaks"]
    assert got["gates"].shape == (4, 4, 5)
    uncalibrated = model.in_units(model(batch_of(SIGNAL)).predictions)
    assert all(torch.allclose(got[task.name], uncalibrated[task.name], rtol=1e-5, atol=1e-5) for task in tasks)


def batch_of(signal: Tensor) -> ECGBatch:
    nobody = torch.zeros(len(signal), dtype=torch.int64)
    return ECGBatch(signal=signal, r_peaks=EveryTenth()(signal), study_id=nobody, patient_id=nobody)


class AsksItsData(DLinear):
    """A backbone of somebody's own that no graph can hold."""

    def encode(self, x_BCS: Tensor) -> Tensor:
        return super().encode(x_BCS if float(x_BCS.mean()) > 0 else -x_BCS)


def test_what_cannot_be_exported_is_named() -> None:
    model = model_of(("dlinear", "ecgfm"))
    model.backbones["dlinear"].__class__ = AsksItsData
    with pytest.raises(ExportError, match="the backbone dlinear cannot be exported"):
        graph_of(whole(model))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r"onnxscript.*pip install 'ecgmoe\[export\]'.*--formats pt2"):
        graph.check_packages()
