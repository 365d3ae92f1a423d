"""What every backbone must do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from documents import python_block
from ecgmoe.backbones import registry
from ecgmoe.backbones.base import Backbone, pool_tokens
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.dlinear import DLinear
from ecgmoe.backbones.ecgfm import EcgFm
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.backbones.timesnet import TimesNet
from ecgmoe.ecg.wfdb_file import read_wfdb

OTHER = {"residual_network": "ecgmoe.backbones.residual_network:ResidualNetwork"}
"""No encoder of the paper, but held to the same."""
NAMES = (*registry.BACKBONES, *OTHER)
ALIKE = 1e-5
"""Relative norm of a difference that rounding in fp32 explains."""
STEP = 3e-3
"""Of a difference beside a gradient: small beside the signal, large beside rounding."""
FEATURE_BUDGET = 32 * 1024
"""Bytes of fp16 features per record, all five backbones together."""


def tiny(name: str, seed: int = 0) -> Backbone:
    config = BackboneConfig(name=name, implementation=OTHER.get(name), size="tiny", seed=seed)
    return registry.build(config).eval()


def ecgs(count: int = 5, seed: int = 0) -> torch.Tensor:
    """Noise with a rhythm of each record's own, so that the periods differ."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(5000) / 500
    rate = 0.8 + torch.rand(count, 1, 1, generator=generator) * 3
    return torch.sin(2 * torch.pi * rate * time) + 0.3 * torch.randn(count, 12, 5000, generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_those_that_it_states(name: str) -> None:
    backbone = tiny(name)
    assert backbone(ecgs(2)).shape == (2, backbone.tokens, backbone.width)


@pytest.mark.parametrize("size", ["base", "large"])
def test_features_of_all_five_fit_the_budget(size: str) -> None:
    # On the meta device, because only the sizes matter.
    with torch.device("meta"):
        all_five = [kind(kind.sizes[size]) for kind in map(registry.backbone_class, registry.BACKBONES)]
    assert sum(each.tokens * each.width * torch.float16.itemsize for each in all_five) <= FEATURE_BUDGET


def test_the_tiny_ones_have_a_few_hundred_thousand_weights_in_all() -> None:
    assert sum(p.numel() for name in registry.BACKBONES for p in tiny(name).parameters()) < 500_000


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_wants(name: str) -> None:
    wants = tiny(name).wants
    assert wants.samples == round(wants.sampling_rate_hz * 10)
    assert wants.leads in ("together", "each alone")
    assert wants.normalisation


@pytest.mark.parametrize("name", NAMES)
def test_nothing_normalises_over_the_batch_or_drops_out(name: str) -> None:
    modules = list(tiny(name).train().modules())
    assert not [module for module in modules if isinstance(module, torch.nn.modules.batchnorm._NormBase)]
    # Dropout would make a live feature another function than the cached one.
    assert not [module for module in modules if isinstance(module, torch.nn.Dropout) and module.p > 0]


@pytest.mark.parametrize("name", NAMES)
def test_all_weights_that_are_used_can_be_trained(name: str) -> None:
    backbone = tiny(name).train().requires_grad_(True)
    fixed = [key for key, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert fixed == (["net.encoder.embed_tokens.weight"] if name == "moment" else [])
    for key, parameter in backbone.named_parameters():
        if "lora_B" in key:
            # Zero at the start, which lets nothing through to A.
            torch.nn.init.normal_(parameter)
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
        assert (found - expected).norm() / expected.norm() < ALIKE


@pytest.mark.real_data
@pytest.mark.parametrize("name", NAMES)
def test_nor_does_a_real_record(name: str, shared_data: Path) -> None:
    headers = sorted((shared_data / "ptbxl" / "records500").rglob("*.hea"))[::200]
    signals = np.stack([read_wfdb(str(header.with_suffix(""))) for header in headers])
    backbone, x = tiny(name), to_millivolt(torch.from_numpy(signals))
    with torch.no_grad():
        together = backbone(x)
        alone = torch.cat([backbone(record[None]) for record in x])
    assert len(x) >= 7
    assert ((alone - together).flatten(1).norm(dim=1) / together.flatten(1).norm(dim=1)).max() < ALIKE


@pytest.mark.parametrize("name", NAMES)
def test_dead_leads_give_finite_outputs_and_gradients(name: str) -> None:
    backbone, x = tiny(name), ecgs(3)
    x[0, 3], x[1] = 0.0, 0.0
    output = backbone(x.requires_grad_())
    output.square().mean().backward()
    assert output.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_to_the_ecg_is_that_of_the_function(name: str) -> None:
    """Attribution sums it; momentfm's own lacks what a lead's mean and deviation add, which is all along the ECG itself."""
    backbone, x = tiny(name), ecgs(1)
    weights = torch.randn(backbone.tokens, backbone.width, generator=torch.Generator().manual_seed(1))

    def function(ecg: torch.Tensor) -> torch.Tensor:
        return (backbone(ecg) * weights).sum()

    leaf = x.clone().requires_grad_()
    value = function(leaf)
    # Whoever asks for a gradient gets the same features.
    assert value.item() == function(x).item()
    (gradient,) = torch.autograd.grad(value, leaf)
    other = torch.sin(torch.arange(5000) / 40).expand_as(x) * (torch.arange(12) % 3 == 0)[None, :, None]
    for direction in (x, other):
        expected = (gradient * direction).sum().item()
        with torch.no_grad():
            found = (function(x + STEP * direction) - function(x - STEP * direction)).item() / (2 * STEP)
        # Within two steps ReLUs turn, and float32 rounds the outputs of about 20 to 2e-6.
        assert found == pytest.approx(expected, rel=0.03, abs=2e-3)


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
    again = registry.rebuild(json.loads(json.dumps(registry.describe(name, backbone)))).eval()
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(again(ecgs(2)), backbone(ecgs(2)))


def test_the_architecture_of_a_described_backbone_is_checked() -> None:
    description = registry.describe("timesnet", tiny("timesnet"))
    description["architecture"]["widht"] = 3
    with pytest.raises(ValueError, match="widht"):
        registry.rebuild(description)


def test_pooling_averages_neighbouring_leads() -> None:
    feature = torch.arange(12.0).view(1, 12, 1, 1).expand(1, 12, 64, 5)
    assert pool_tokens(feature, 4)[0, :, 0].tolist() == [1, 4, 7, 10]
    with pytest.raises(ValueError, match="ask for at most 768"):
        pool_tokens(feature, 1000)


def test_an_unknown_backbone_is_refused_with_the_names() -> None:
    with pytest.raises(
        ValueError, match=r"unknown backbone 'resnet': choose one of dlinear, ecgfm, moment, tempo, timesnet"
    ):
        registry.build(BackboneConfig(name="resnet"))


def test_an_unknown_size_is_refused_with_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DLinear, "sizes", {"tiny": DLinear.sizes["tiny"]})
    with pytest.raises(ValueError, match="dlinear has no size 'large': choose one of tiny"):
        registry.build(BackboneConfig(name="dlinear", size="large"))


def test_the_registry_imports_no_package_of_a_backbone() -> None:
    code = "import ecgmoe.backbones.registry, sys; print({'momentfm', 'transformers', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_user_adds_a_backbone_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_lab.py").write_text(python_block("BACKBONES.md", "# my_lab.py"))
    monkeypatch.syspath_prepend(tmp_path)
    config = BackboneConfig(name="mine", implementation="my_lab:Strided")
    backbone = registry.build(config)
    assert backbone(ecgs(2)).shape == (2, 10, 16)
    description = registry.describe("mine", backbone)
    assert registry.rebuild(description).architecture == backbone.architecture
    # Another process (a Ray worker) finds it by the same path.
    code = f"from ecgmoe.backbones import registry; print(registry.rebuild({description!r}).width)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "16\n"
    with pytest.raises(ValueError, match=r"my_lab:Absent cannot be imported .*PYTHONPATH"):
        registry.build(replace(config, implementation="my_lab:Absent"))
    with pytest.raises(ValueError, match="'my_lab' does not name a class"):
        replace(config, implementation="my_lab")


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
    assert (before - shared(x)).abs().max() < 1e-5
    with torch.no_grad():
        individual.get_parameter("Linear_Trend.3.bias").add_(1)
    changed = (individual(x) - before).abs().amax((0, 2)) > 0.5
    assert changed.nonzero().flatten().tolist() == [3]


def test_timesnet_takes_each_records_own_periods() -> None:
    """A batch gives what the official code gives for each record alone, where the batch's periods are its own."""
    backbone = tiny("timesnet")
    x = backbone.own_input(ecgs(6))
    alone = torch.cat([backbone.encode(record[None], batch_periods=True) for record in x])
    assert (backbone.encode(x) - alone).norm() / alone.norm() < ALIKE
    # These records differ enough for the comparison to mean something.
    assert (backbone.encode(x, batch_periods=True) - alone).norm() / alone.norm() > 1e-3


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


def test_ecgfm_sees_z_scores_of_the_whole_record_in_segments_of_5_s() -> None:
    backbone = tiny("ecgfm")
    assert isinstance(backbone, EcgFm)
    x = ecgs(2) * torch.linspace(0.1, 3, 5000) + 7.0
    x[0, 4] = 0.37
    z = backbone.own_input(x)
    expected = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0)
    expected[0, 4] = 0.0
    assert (z - expected).abs().max() < 1e-4
    halves = [backbone.encode(half) for half in (z[..., :2500], z[..., 2500:])]
    assert torch.equal(backbone(x), pool_tokens(torch.stack(halves, 1), backbone.tokens))
    # Units cancel.
    assert (backbone(x * 1000) - backbone(x)).norm() / backbone(x).norm() < 1e-4
