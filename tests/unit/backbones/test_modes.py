"""What trains in each mode, adapters, gradient checkpointing, autocast; what would be ignored is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ecgmoe.backbones import registry
from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.config import BackboneConfig

ATTENTIVE = ("moment", "tempo", "ecgfm")
ECGS = torch.randn(2, 12, 5000, generator=torch.Generator().manual_seed(0))


def build(name: str, **options: Any) -> Backbone:
    return registry.build(BackboneConfig(name=name, allow_random=True, **options))


def trained(backbone: Backbone) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", registry.BACKBONES)
@pytest.mark.parametrize("mode", ["cached", "frozen"])
def test_nothing_trains(name: str, mode: Any) -> None:
    assert trained(build(name, mode=mode)) == set()


@pytest.mark.parametrize("name", ATTENTIVE)
def test_adapters_alone_train_and_start_as_the_same_function(name: str) -> None:
    backbone, plain = build(name, mode="lora").eval(), build(name).eval()
    names = trained(backbone)
    assert names
    assert all(".lora_A." in each or ".lora_B." in each for each in names)
    with torch.no_grad():
        assert torch.equal(backbone(ECGS), plain(ECGS))
    for module in backbone.modules():
        assert not isinstance(module, torch.nn.Dropout) or module.p == 0


@pytest.mark.parametrize("name", ["moment", "ecgfm"])
def test_adapters_are_on_query_and_value_with_the_rank_asked_for(name: str) -> None:
    backbone = build(name, mode="lora", lora_rank=3, lora_alpha=6.0)
    places = {each.split(".lora_")[0].rsplit(".", 1)[1] for each in trained(backbone)}
    assert places == set(type(backbone).attention)
    assert all(3 in parameter.shape for parameter in backbone.parameters() if parameter.requires_grad)
    assert backbone.lora is not None
    assert (backbone.lora.rank, backbone.lora.alpha) == (3, 6.0)


def test_tempo_trains_the_adapters_it_was_published_with() -> None:
    assert trained(build("tempo", mode="lora")) == {name for name in trained(build("tempo")) if ".lora_" in name}
    with pytest.raises(ValueError, match=r"TEMPO's adapters have rank 4 and alpha 16.*unset"):
        build("tempo", mode="lora", lora_rank=8)


@pytest.mark.parametrize("name", ATTENTIVE)
def test_adapters_are_rebuilt_from_their_description(name: str) -> None:
    backbone = build(name, mode="lora").eval()
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    again = registry.rebuild(json.loads(json.dumps(registry.describe(name, backbone)))).eval()
    again.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        assert torch.equal(again(ECGS), backbone(ECGS))


@pytest.mark.parametrize("name", ["timesnet", "dlinear"])
def test_without_attention_there_is_nothing_to_adapt(name: str) -> None:
    with pytest.raises(ValueError, match="has no attention for adapters: choose mode cached, frozen or full"):
        build(name, mode="lora")
    with pytest.raises(ValueError, match="too small for gradient checkpointing"):
        build(name, gradient_checkpointing=True)


@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_checkpointed_gradients_are_the_same(name: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real: Callable[..., Any] = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr("transformers.modeling_utils.checkpoint", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    gradients = []
    for on in (False, True):
        backbone = build(name, mode=mode, gradient_checkpointing=on).train()
        backbone(ECGS).square().mean().backward()
        assert bool(calls) == on
        gradients.append({key: p.grad for key, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, value in gradients[0].items():
        # The same operations on the same numbers, done twice.
        assert torch.allclose(gradients[1][key], value, rtol=1e-5, atol=1e-7), key


@pytest.mark.parametrize("name", registry.BACKBONES)
def test_under_bf16_autocast_features_are_close_and_finite(name: str) -> None:
    backbone = build(name).eval()
    with torch.no_grad():
        expected = backbone(ECGS)
        with torch.autocast("cpu", torch.bfloat16):
            found = backbone(ECGS).float()
    # bf16 has 8 bits: 0.4 % per operation, over the handful of layers of the tiny encoders.
    assert (found - expected).norm() / expected.norm() < 0.03


@pytest.mark.parametrize("name", ATTENTIVE)
def test_attention_is_the_libraries_fused_one(name: str) -> None:
    configs = [module.config for module in build(name).modules() if hasattr(module, "config")]
    assert {config._attn_implementation for config in configs if hasattr(config, "_attn_implementation")} == {"sdpa"}


def test_options_that_would_be_ignored_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"mode": "cached"}, "without weights would use random weights that nothing trains"),
        ({"mode": "lora"}, "without weights would use random weights that nothing trains"),
        ({"lora_rank": 4}, "lora_rank and lora_alpha belong to mode 'lora'"),
        ({"mode": "frozen", "allow_random": True, "gradient_checkpointing": True}, "has no backward pass"),
        ({"feature_type": "fp32"}, "is how mode 'cached' stores features"),
        ({"mode": "lora", "allow_random": True, "lora_rank": 0}, "lora_rank must be at least 1"),
        ({"mode": "lora", "allow_random": True, "lora_alpha": 0.0}, "lora_alpha must be > 0"),
        ({"implementation": "os.system"}, "does not name a class"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            BackboneConfig(name="moment", **options)
    with pytest.raises(ValueError, match="use lower-case letters"):
        BackboneConfig(name="My-net")
