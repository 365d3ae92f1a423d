"""What every backbone must do, and equality with the official implementations where their outputs are at hand."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from safetensors.torch import load_file, save_file

from ecgmoe.backbones import registry
from ecgmoe.backbones.base import Backbone, pool_tokens
from ecgmoe.backbones.checkpoints import CheckpointError
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.dlinear import DLinear
from ecgmoe.backbones.moment import Moment
from ecgmoe.backbones.resample import fourier_resample
from ecgmoe.backbones.timesnet import Architecture, TimesNet

FIXTURES = Path(__file__).resolve().parents[4] / "shared" / "fixtures" / "backbones"
NAMES = ("timesnet", "dlinear", "moment")
PARITY = 1e-5
"""Largest absolute difference from the official output in fp32."""


def tiny(name: str, seed: int = 0) -> Backbone:
    return registry.build(BackboneConfig(name=name, size="tiny", seed=seed)).eval()


def ecgs(count: int = 5, seed: int = 0) -> torch.Tensor:
    """Noise with a rhythm of each record's own, so that the periods differ."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(5000) / 500
    rate = 0.8 + torch.rand(count, 1, 1, generator=generator) * 3
    return torch.sin(2 * torch.pi * rate * time) + 0.3 * torch.randn(count, 12, 5000, generator=generator)


def fixture(name: str) -> Path:
    folder = FIXTURES / name
    if not folder.is_dir():
        pytest.skip(f"outputs of the official implementation are not there ({folder})")
    return folder


@pytest.mark.parametrize(
    ("length", "samples"), [(5000, 500), (5000, 512), (5000, 336), (5000, 501), (5001, 500), (500, 5000)]
)
def test_resampling_is_scipys(length: int, samples: int) -> None:
    x = np.random.default_rng(0).normal(0, 1, (3, length))
    found = fourier_resample(torch.from_numpy(x), samples).numpy()
    # fp32 against fp64 on a few mV.
    assert np.abs(found - scipy.signal.resample(x, samples, axis=1)).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_those_that_it_states(name: str) -> None:
    backbone = tiny(name)
    assert backbone(ecgs(2)).shape == (2, backbone.tokens, backbone.width)


@pytest.mark.parametrize("name", NAMES)
def test_a_record_does_not_depend_on_its_neighbours(name: str) -> None:
    backbone, x = tiny(name), ecgs(5)
    together = backbone(x)
    order = torch.tensor([4, 2, 0, 3, 1])
    for found, expected in ((backbone(x[order]), together[order]), (backbone(x[2:3]), together[2:3])):
        assert (found - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_dead_leads_give_finite_outputs_and_gradients(name: str) -> None:
    backbone, x = tiny(name), ecgs(3)
    x[0, 3], x[1] = 0.0, 0.0
    output = backbone(x)
    output.square().mean().backward()
    assert output.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_come_from_the_seed_and_leave_the_global_state_alone(name: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = tiny(name, 1), tiny(name, 1), tiny(name, 2)
    assert torch.equal(torch.rand(1), expected)
    assert registry.weights_digest(first) == registry.weights_digest(second) != registry.weights_digest(other)


@pytest.mark.parametrize("name", NAMES)
def test_a_described_backbone_can_be_built_again(name: str) -> None:
    backbone = tiny(name, 4)
    again = registry.rebuild(name, json.loads(json.dumps(backbone.describe()))).eval()
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(again(ecgs(2)), backbone(ecgs(2)))


def test_pooling_averages_neighbouring_leads() -> None:
    feature = torch.arange(12.0).view(1, 12, 1, 1).expand(1, 12, 64, 5)
    assert pool_tokens(feature, 4)[0, :, 0].tolist() == [1, 4, 7, 10]
    with pytest.raises(ValueError, match="ask for at most 768"):
        pool_tokens(feature, 1000)


def test_an_unknown_backbone_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet': choose one of dlinear, moment, timesnet"):
        registry.build(BackboneConfig(name="resnet"))


def test_a_user_adds_a_backbone_in_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKBONES", dict(registry.BACKBONES))
    registry.register("mine", "ecgmoe.backbones.dlinear:DLinear")
    assert isinstance(registry.build(BackboneConfig(name="mine")), DLinear)


def test_dlinear_is_the_official_one() -> None:
    folder = fixture("dlinear")
    io = load_file(folder / "io.safetensors")
    backbone = DLinear.from_pretrained(str(folder / "checkpoint.pth"))
    assert (backbone.samples, backbone.width) == (336, 96)
    found = backbone.encode(io["x"].transpose(1, 2)).transpose(1, 2)
    assert (found - io["y"]).abs().max() < PARITY


def timesnet_feature(backbone: TimesNet, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """The official forecast mode: standardise, embed, extend by the forecast, then the blocks."""
    state = torch.load(folder / "checkpoint.pth", weights_only=True)
    standard = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    embedded = backbone.embed(standard.transpose(1, 2)).transpose(1, 2)
    extended = torch.nn.functional.linear(embedded, state["predict_linear.weight"], state["predict_linear.bias"])
    return backbone.blocks(extended.transpose(1, 2))


def test_timesnet_is_the_official_one_where_periods_come_from_the_batch() -> None:
    folder = fixture("timesnet_fc")
    io = load_file(folder / "io.safetensors")
    loaded = TimesNet.from_pretrained(str(folder / "checkpoint.pth")).eval()
    assert (loaded.architecture.layers, loaded.architecture.kernels, loaded.width) == (3, 6, 16)  # type: ignore[attr-defined]
    official = TimesNet(loaded.architecture, batch_periods=True).eval()  # type: ignore[arg-type]
    official.load_state_dict(loaded.state_dict())
    with torch.no_grad():
        assert (timesnet_feature(official, folder, io["x"]) - io["feature"]).abs().max() < PARITY
        official.layer_norm.weight[0] *= 1.01
        assert (timesnet_feature(official, folder, io["x"]) - io["feature"]).abs().max() > 100 * PARITY


def test_timesnet_breaks_ties_towards_the_lower_frequency() -> None:
    block = TimesNet(replace(TimesNet.sizes["tiny"], periods=2)).model[0]
    periods, _ = block.periods(torch.zeros(1, 250, 8))  # type: ignore[operator]
    assert periods.tolist() == [[250, 250]] or periods.tolist() == [[250, 125]]


def test_moment_is_the_official_one() -> None:
    folder = fixture("moment_tiny")
    io = load_file(folder / "io.safetensors")
    backbone = Moment.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        found = backbone.net.embed(x_enc=io["x"], input_mask=io["mask"], reduction="none").embeddings
        assert (found - io["none"]).abs().max() < PARITY
        # Without a mask only the mean is at hand.
        assert (backbone.encode(io["x"]).mean((1, 2)) - io["mean_nomask"]).abs().max() < PARITY
        backbone.net.encoder.final_layer_norm.weight[0] *= 1.01
        changed = backbone.net.embed(x_enc=io["x"], input_mask=io["mask"], reduction="none").embeddings
        assert (changed - io["none"]).abs().max() > 100 * PARITY


def test_checkpoints_that_do_not_fit_are_refused_with_the_keys(tmp_path: Path) -> None:
    good = DLinear(replace(DLinear.sizes["tiny"])).state_dict()
    torn = {key: value for key, value in good.items() if key != "Linear_Trend.bias"}
    save_file({**torn, "more": torch.zeros(1), "Linear_Trend.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(
        CheckpointError, match=r"missing: Linear_Trend.bias; unexpected: more; mis-shaped: Linear_Trend.weight \(2, 2\)"
    ):
        DLinear.from_pretrained(str(tmp_path / "a.safetensors"))
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"has no Linear_Seasonal\.weight"):
        DLinear.from_pretrained(str(tmp_path / "b.safetensors"))
    (tmp_path / "c.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match="cannot be read as weights alone"):
        DLinear.from_pretrained(str(tmp_path / "c.pth"))
    with pytest.raises(CheckpointError, match="no weights at"):
        DLinear.from_pretrained(str(tmp_path / "absent.pth"))


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))  # type: ignore[return-value]


def test_a_pickle_that_would_execute_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"a": Exploit()}))
    with pytest.raises(CheckpointError, match="cannot be read as weights alone"):
        DLinear.from_pretrained("evil.pth")
    assert not Path("executed").exists()


@pytest.mark.real_data
def test_resampling_is_scipys_on_real_records(shared_data: Path) -> None:
    raw = np.fromfile(shared_data / "ptbxl" / "records500" / "00000" / "00001_hr.dat", "<i2").reshape(-1, 12).T / 1000
    for samples in (336, 500, 512, 2500):
        found = fourier_resample(torch.from_numpy(raw), samples).numpy()
        assert np.abs(found - scipy.signal.resample(raw, samples, axis=1)).max() < 1e-4


def test_the_architecture_of_timesnet_is_checked_through_json() -> None:
    with pytest.raises(ValueError, match="widht"):
        registry.rebuild("timesnet", {**vars(Architecture()), "widht": 3})
