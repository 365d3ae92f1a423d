"""What every backbone must do, and equality with the official implementations where their outputs are at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ecgmoe.backbones import registry
from ecgmoe.backbones.base import Backbone, pool_tokens
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.dlinear import DLinear
from ecgmoe.backbones.moment import Moment
from ecgmoe.backbones.timesnet import TimesNet

FIXTURES = Path(__file__).resolve().parents[4] / "shared" / "fixtures" / "backbones"
NAMES = ("timesnet", "dlinear", "moment")
PARITY = 1e-5
"""Largest absolute difference from the official output in fp32."""
FEATURE_BUDGET = 32 * 1024 // 5
"""Bytes per record and backbone, so that five stay under 32 KiB."""


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


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_those_that_it_states(name: str) -> None:
    backbone = tiny(name)
    assert backbone(ecgs(2)).shape == (2, backbone.tokens, backbone.width)


@pytest.mark.parametrize("name", NAMES)
def test_features_at_base_fit_the_budget(name: str) -> None:
    # On the meta device, because only the sizes matter.
    with torch.device("meta"):
        backbone = registry.backbone_class(name)(registry.backbone_class(name).sizes["base"])
    assert backbone.tokens * backbone.width * torch.float16.itemsize <= FEATURE_BUDGET


@pytest.mark.parametrize("name", NAMES)
def test_nothing_normalises_over_the_batch_or_drops_out(name: str) -> None:
    modules = list(tiny(name).train().modules())
    assert not [module for module in modules if isinstance(module, torch.nn.modules.batchnorm._NormBase)]
    # Dropout would make a live feature another function than the cached one.
    assert not [module for module in modules if isinstance(module, torch.nn.Dropout) and module.p > 0]


@pytest.mark.parametrize("name", NAMES)
def test_all_weights_that_are_used_can_be_trained(name: str) -> None:
    backbone = tiny(name).train()
    fixed = [key for key, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert fixed == (["net.encoder.embed_tokens.weight"] if name == "moment" else [])
    backbone(ecgs(2)).square().mean().backward()
    still = {key for key, p in backbone.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    # MOMENT's mask embedding stands for unobserved patches, and a canonical record is observed throughout.
    assert still <= {"net.patch_embedding.mask_embedding"}


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


def test_the_digest_tells_names_types_shapes_and_values_apart() -> None:
    backbone = tiny("dlinear")
    before = registry.weights_digest(backbone)
    with torch.no_grad():
        backbone.get_parameter("Linear_Trend.bias")[0] += 1e-6
    changed = registry.weights_digest(backbone)
    assert len({before, changed, registry.weights_digest(backbone.bfloat16())}) == 3


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


def test_an_unknown_size_is_refused_with_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DLinear, "sizes", {"tiny": DLinear.sizes["tiny"]})
    with pytest.raises(ValueError, match="dlinear has no size 'large': choose one of tiny"):
        registry.build(BackboneConfig(name="dlinear", size="large"))


def test_the_registry_imports_no_package_of_a_backbone() -> None:
    code = "import ecgmoe.backbones.registry, sys; print({'momentfm', 'transformers', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_user_adds_a_backbone_in_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKBONES", dict(registry.BACKBONES))
    registry.register("mine", "ecgmoe.backbones.dlinear:DLinear")
    assert isinstance(registry.build(BackboneConfig(name="mine")), DLinear)
    with pytest.raises(ValueError, match="'dlinear' does not name a class"):
        registry.register("other", "dlinear")


def test_dlinear_is_the_official_one() -> None:
    folder = fixture("dlinear")
    io = load_file(folder / "io.safetensors")
    backbone = DLinear.from_pretrained(str(folder / "checkpoint.pth"))
    assert (backbone.samples, backbone.width) == (336, 96)
    with torch.no_grad():
        for weight, parity in ((1.0, True), (1.01, False)):
            backbone.get_parameter("Linear_Trend.weight")[0] *= weight
            found = backbone.encode(io["x"].transpose(1, 2)).transpose(1, 2)
            assert ((found - io["y"]).abs().max() < PARITY) == parity


def test_individual_layers_of_dlinear_are_the_leads_own() -> None:
    shared = DLinear(DLinear.sizes["tiny"])
    individual = DLinear(replace(DLinear.sizes["tiny"], individual=True))
    individual.load_state_dict(
        {
            f"{part}.{lead}.{kind}": value
            for part, kind, value in ((*key.split("."), value) for key, value in shared.state_dict().items())
            for lead in range(12)
        }
    )
    x = ecgs(2)
    before = individual(x)
    assert (before - shared(x)).abs().max() < PARITY
    with torch.no_grad():
        individual.get_parameter("Linear_Trend.3.bias").add_(1)
    changed = (individual(x) - before).abs().amax((0, 2)) > 0.5
    assert changed.nonzero().flatten().tolist() == [3]


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
    assert (loaded.architecture.layers, loaded.architecture.kernels, loaded.width) == (3, 6, 16)
    official = TimesNet(loaded.architecture, batch_periods=True).eval()
    official.load_state_dict(loaded.state_dict())
    with torch.no_grad():
        assert (timesnet_feature(official, folder, io["x"]) - io["feature"]).abs().max() < PARITY
        official.layer_norm.weight[0] *= 1.01
        assert (timesnet_feature(official, folder, io["x"]) - io["feature"]).abs().max() > 100 * PARITY


def test_timesnet_takes_each_records_own_periods() -> None:
    """A batch gives what the official code gives for each record alone, where the batch's periods are its own."""
    own = TimesNet(TimesNet.sizes["tiny"]).eval()
    official = TimesNet(TimesNet.sizes["tiny"], batch_periods=True).eval()
    official.load_state_dict(own.state_dict())
    x = ecgs(6)
    alone = torch.cat([official(record[None]) for record in x])
    assert (own(x) - alone).norm() / alone.norm() < 1e-5
    # These records differ enough for the comparison to mean something.
    assert (official(x) - alone).norm() / alone.norm() > 1e-3


def test_timesnet_breaks_ties_towards_the_lower_frequency() -> None:
    block = TimesNet(replace(TimesNet.sizes["tiny"], periods=3)).model[0]
    silence = torch.zeros(1, 250, 8)
    impulse = silence.clone()
    impulse[0, 0] = 1.0
    for x in (silence, impulse):
        # All amplitudes are equal: frequencies 1, 2 and 3, and never the mean.
        periods, amplitude = block.periods(x)  # type: ignore[operator]
        assert periods.tolist() == [[250, 125, 83]]
        assert amplitude.isfinite().all()


def test_timesnet_takes_the_periods_from_a_spectrum_in_fp32() -> None:
    block = TimesNet(replace(TimesNet.sizes["tiny"], periods=1)).model[0]
    time = torch.arange(250)[None, :, None] / 250
    # The second tone is stronger by 0.1 %, less than bf16 resolves.
    x = (torch.sin(2 * torch.pi * 5 * time) + 1.001 * torch.sin(2 * torch.pi * 10 * time)).expand(1, 250, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert block.periods(x)[0].tolist() == [[25]]  # type: ignore[operator]


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
