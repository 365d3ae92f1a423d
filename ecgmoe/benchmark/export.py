"""What the inference form gains: a whole prediction from the int16 waveform in memory, and adapters merged beside apart.

One thread of this machine's CPU, what is compared in turns. Weights are random: they do not change how long a pass takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecgmoe.backbones import registry
from ecgmoe.backbones.base import Lora
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.benchmark.inference import fresh_model
from ecgmoe.benchmark.variants import noise
from ecgmoe.config import RunConfig
from ecgmoe.ecg.beats import detect_r_peaks
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.export.check import onnx_runner, program_runner
from ecgmoe.export.form import inference_form, merge_adapters, merge_task_adapters
from ecgmoe.export.graph import graph_of, write_onnx, write_pt2
from ecgmoe.export.predictor import WaveformPredictor
from ecgmoe.model.batch import ECGBatch, pad_r_peaks
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.fusion import FusionTrunk

LORA = Lora(rank=8, alpha=16.0)
WIDTHS = (16, 32, 64, 128, 256, 512)
TASKS, BACKBONES = 5, 5


def export_benchmark(config: RunConfig, folder: Path, *, repeats: int = 9) -> dict[str, Any]:
    """Alternate the forms of one model on the same records, then adapters merged and apart.

    Args:
        config: of the model.
        folder: for the exported files.
        repeats: rounds; figures are medians, ratios those of each round's.
    """
    torch.set_num_threads(1)
    forms = _forms(fresh_model(config), folder)
    return {
        "whole": {f"batch_{n}": _whole(forms, n, repeats) for n in (1, 32)},
        "backbone_adapters_merged": {
            f"{name} {size}": _backbone(name, size, repeats)
            for name in ("tempo", "moment")
            for size in ("tiny", "base")
        },
        "task_adapters_merged": {
            f"width {width}": {f"batch_{n}": _trunk(width, n, 5 * repeats) for n in (1, 8, 32)} for width in WIDTHS
        },
    }


def _forms(model: ECGMoE, folder: Path) -> dict[str, Callable[[torch.Tensor], Any]]:
    """By name: from int16 records to predictions in their units."""
    whole = WaveformPredictor(inference_form(model), model.tasks, Calibration()).eval()
    graph = graph_of(whole)
    write_onnx(graph, folder / "predictor.onnx", whole.output_names, {})
    write_pt2(graph, folder / "predictor.pt2")
    pt2, onnx = program_runner(folder / "predictor.pt2"), onnx_runner(folder / "predictor.onnx", threads=1)
    return {
        "model": lambda signal: _predict(model, signal),
        "inference_form": lambda signal: _predict(whole.model, signal),
        "pt2": lambda signal: pt2(signal.numpy()),
        "onnx": lambda signal: onnx(signal.numpy()),
    }


def _whole(forms: Mapping[str, Callable[[torch.Tensor], Any]], records: int, repeats: int) -> dict[str, Any]:
    signal = noise(records).signal
    times = _in_turns({name: partial(run, signal) for name, run in forms.items()}, repeats)
    return {
        "ms_per_record": {name: 1000 * statistics.median(each) / records for name, each in times.items()},
        "times_model": {name: _ratio(each, times["model"]) for name, each in times.items() if name != "model"},
    }


def _predict(model: ECGMoE, signal: torch.Tensor) -> Any:
    peaks = pad_r_peaks([detect_r_peaks(each) for each in signal.numpy()])
    nobody = torch.zeros(len(signal), dtype=torch.int64)
    batch = ECGBatch(signal=signal, r_peaks=peaks, study_id=nobody, patient_id=nobody)
    return model.in_units(model(batch).predictions)


def _backbone(name: str, size: Any, repeats: int) -> dict[str, float]:
    apart, merged = (registry.build(BackboneConfig(name=name, size=size)).eval() for _ in range(2))
    for each in (apart, merged):
        each.add_lora(each.own_lora or LORA)
    merge_adapters(merged)
    return _merged(apart, merged, (torch.randn(1, 12, 5000),), repeats)


def _trunk(width: int, records: int, repeats: int) -> dict[str, float]:
    apart, merged = (
        FusionTrunk((BACKBONES + 1) * width, width, tasks=TASKS, rank=LORA.rank, alpha=LORA.alpha, dropout=0.0).eval()
        for _ in range(2)
    )
    merge_task_adapters(merged)
    return _merged(apart, merged, (torch.randn(records, TASKS, (BACKBONES + 1) * width), slice(None)), repeats)


def _merged(apart: nn.Module, merged: nn.Module, inputs: tuple[Any, ...], repeats: int) -> dict[str, float]:
    times = _in_turns({"apart": lambda: apart(*inputs), "merged": lambda: merged(*inputs)}, repeats)
    return {
        "apart_ms": 1000 * statistics.median(times["apart"]),
        "merged_times_apart": _ratio(times["merged"], times["apart"]),
    }


@torch.inference_mode()
def _in_turns(runners: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each round; the first one warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for repeat in range(repeats + 1):
        for name, run in runners.items():
            started = time.perf_counter()
            run()
            if repeat:
                times[name].append(time.perf_counter() - started)
    return times


def _ratio(each: list[float], base: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(each, base, strict=True))
