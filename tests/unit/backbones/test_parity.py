"""Equality with the official implementations, on checkpoints and outputs that they wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ecgmoe.backbones import load_official
from ecgmoe.backbones.official import OfficialEncoder

FIXTURES = Path(__file__).resolve().parents[4] / "shared" / "fixtures" / "backbones"
PARITY = 1e-5
"""Largest absolute difference from the official output in fp32, evaluation mode."""

IO = dict[str, Tensor]
Difference = Callable[[OfficialEncoder, IO], float]


def largest(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


def dlinear(encoder: OfficialEncoder, io: IO) -> float:
    return largest(encoder(io["x"].transpose(1, 2)).transpose(1, 2), io["y"])


def timesnet(encoder: OfficialEncoder, io: IO) -> float:
    # The official code was called with the whole batch, and takes the periods from all of it.
    return largest(encoder(io["x"].transpose(1, 2), batch_periods=True), io["feature"])


def moment(encoder: OfficialEncoder, io: IO) -> float:
    unmasked = largest(encoder(io["x"]).mean((1, 2)), io["mean_nomask"])
    return max(unmasked, largest(encoder(io["x"], mask_BS=io["mask"]), io["none"]))


def tempo(encoder: OfficialEncoder, io: IO) -> float:
    # Three parts of nine prompt tokens and 42 patches each.
    patches = io["hidden"].unflatten(1, (3, 51))[:, :, 9:]
    return largest(encoder(io["x"].transpose(1, 2))[:, 0], patches)


def ecgfm(encoder: OfficialEncoder, io: IO) -> float:
    return max(largest(encoder(io["source"]), io["x"]), largest(encoder(io["source_5000"]), io["x_5000"]))


CASES: dict[str, tuple[str, Difference, str | None]] = {
    "dlinear": ("dlinear/checkpoint.pth", dlinear, None),
    "timesnet": ("timesnet_fc/checkpoint.pth", timesnet, "layer_norm.weight"),
    "moment": ("moment_tiny", moment, "net.encoder.final_layer_norm.weight"),
    "tempo": ("tempo_tiny/checkpoint.pth", tempo, "gpt2.ln_f.weight"),
    "ecgfm": ("ecgfm_tiny/checkpoint.pt", ecgfm, "net.encoder.layers.1.final_layer_norm.weight"),
}
"""Official file, comparison, and a LayerNorm (DLinear has none: its own weight)."""


def loaded(name: str) -> tuple[OfficialEncoder, IO]:
    path = FIXTURES / CASES[name][0]
    if not path.exists():
        pytest.skip(f"outputs of the official implementation are not there ({path})")
    folder = path if path.is_dir() else path.parent
    return load_official(name, path), load_file(folder / "io.safetensors")


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_it_is_the_official_one(name: str) -> None:
    encoder, io = loaded(name)
    assert CASES[name][1](encoder, io) < PARITY


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_one_percent_of_one_weight_shows(name: str) -> None:
    encoder, io = loaded(name)
    encoder.backbone.get_parameter(CASES[name][2] or "Linear_Trend.weight")[0] *= 1.01
    assert CASES[name][1](encoder, io) > 10 * PARITY


@pytest.mark.parametrize("name", CASES)
def test_a_folder_that_holds_the_file_does_as_well(name: str) -> None:
    encoder, _ = loaded(name)
    path = FIXTURES / CASES[name][0]
    again = load_official(name, path if path.is_dir() else path.parent)
    assert again.backbone.provenance is not None
    assert again.backbone.architecture == encoder.backbone.architecture
    assert len(again.backbone.provenance.sha256) == 64
