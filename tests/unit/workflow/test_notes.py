"""What the head of a report must say of data and weights."""

from __future__ import annotations

from typing import Any

import pytest

from ecgmoe.assessment import notes
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.training.config import TrainingConfig

SAW_MIMIC = {
    "source": "wanglab/ecg-fm",
    "sha256": "0" * 64,
    "licence": "MIT",
    "pretraining": "waveforms of MIMIC-IV-ECG 1.0 and PhysioNet/CinC 2021",
}


def lines(dataset: str, weights: str | None, provenance: dict[str, str] | None) -> list[str]:
    config = RunConfig(backbones=(BackboneConfig(name="ecgfm", weights=weights),))
    metrics: dict[str, Any] = {"tasks": {"rr": {"note": "target derived from the input"}}}
    return notes(config, {"dataset": dataset}, metrics, [{"name": "ecgfm", "provenance": provenance}])


def test_random_weights_and_simulated_data_are_called_that() -> None:
    assert lines("simulated", None, None) == [
        "SIMULATED DATA: these figures say nothing about real patients.",
        "Random-initialised backbones: ecgfm.",
        "rr: target derived from the input; its figures are no claim.",
    ]


def test_an_untrained_head_is_called_that() -> None:
    config = RunConfig(backbones=(BackboneConfig(name="ecgfm"),), training=TrainingConfig(epochs=0))
    line, _ = notes(config, {"dataset": "ptbxl"}, {"tasks": {}}, [])
    assert line == "Nothing was trained: the heads are as they were initialised, and these figures are chance."


@pytest.mark.parametrize("dataset", ["mimic-iv-ecg", "ptbxl", "ludb"])
def test_weights_say_what_their_pretraining_saw(dataset: str) -> None:
    line, _ = lines(dataset, "ecgfm.safetensors", SAW_MIMIC)
    assert line.startswith("ecgfm: weights of wanglab/ecg-fm (MIT); its pretraining saw waveforms of MIMIC-IV-ECG 1.0")
    assert ("THESE RECORDS ARE AMONG THEM" in line) == (dataset != "ludb")
