"""FLOPs of backbones, as the gate's term counts them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ecgmoe.backbones.base import Architecture, Backbone
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.registry import build
from ecgmoe.training.backbone_cost import forward_flops, relative_costs


def encoder(name: str) -> Backbone:
    return build(BackboneConfig(name=name, size="tiny", mode="full"))


def test_a_linear_layer_counts_two_per_weight_and_row() -> None:
    dlinear = encoder("dlinear")
    # Trend and seasonal part, for each of 12 leads.
    weights = sum(each.weight.numel() for each in dlinear.modules() if isinstance(each, nn.Linear))
    assert forward_flops(dlinear) == 2 * 12 * weights


def test_a_weight_that_is_handed_on_and_an_encoder_without_products() -> None:
    class Shift(nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return x + weight

    class Own(Backbone):
        leads, normalisation, architecture_type = "together", "none (mV)", Architecture

        def __init__(self, architecture: Architecture) -> None:
            super().__init__(architecture, width=12)
            self.weight, self.shift = nn.Parameter(torch.zeros(1)), Shift()

        def encode(self, x_BCS: Tensor) -> Tensor:
            return self.shift(x_BCS.transpose(1, 2), self.weight)

    own = Own(Architecture(samples=5000, tokens=4))
    assert relative_costs([own]) == (0,)
    assert own.weight.requires_grad


def test_costs_are_relative_and_leave_no_trace() -> None:
    backbones = [encoder(name) for name in ("dlinear", "moment", "tempo")]
    backbones[1].eval()
    state = torch.random.get_rng_state()
    costs = relative_costs(backbones)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [each.training for each in backbones] == [True, False, True]
    assert sum(costs) == pytest.approx(3)
    # A transformer over 64 patches of each lead, beside two linear layers.
    assert costs[1] > 100 * costs[0]
    assert costs == relative_costs(backbones)
