"""What the head of a report must say of data and weights."""

from __future__ import annotations

from typing import Any

import pytest

from ecgmoe.assessment import STARTED, notes
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.training.config import PretrainingConfig, TrainingConfig

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


def test_a_model_that_began_with_another_one_says_so_and_what_its_backbones_began_with() -> None:
    config = RunConfig(
        backbones=(BackboneConfig(name="dlinear"), BackboneConfig(name="ecgfm")),
        training=TrainingConfig(epochs=0),
        start_from="runs/first/model",
    )
    described = [{"name": "dlinear", "provenance": None}, {"name": "ecgfm", "provenance": SAW_MIMIC}]
    began, random, saw = notes(config, {"dataset": "ptbxl"}, {"tasks": {}}, described)
    assert began == STARTED
    assert random == "Random-initialised backbones: dlinear."
    assert saw.startswith("ecgfm: weights of wanglab/ecg-fm")


def test_a_pretraining_without_labels_is_named() -> None:
    config = RunConfig(
        backbones=(BackboneConfig(name="dlinear", mode="full"),),
        pretraining=PretrainingConfig(backbones=("dlinear",), epochs=1),
    )
    _, line = notes(config, {"dataset": "ptbxl"}, {"tasks": {}}, [])
    assert line == "Pre-trained on the training split's ECGs without labels, by masked reconstruction: dlinear."


@pytest.mark.parametrize("dataset", ["mimic-iv-ecg", "ptbxl", "ludb"])
def test_weights_say_what_their_pretraining_saw(dataset: str) -> None:
    line, _ = lines(dataset, "ecgfm.safetensors", SAW_MIMIC)
    assert line.startswith("ecgfm: weights of wanglab/ecg-fm (MIT); its pretraining saw waveforms of MIMIC-IV-ECG 1.0")
    assert ("THESE RECORDS ARE AMONG THEM" in line) == (dataset != "ludb")
