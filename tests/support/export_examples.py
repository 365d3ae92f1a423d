"""Models with every backbone, and random weights where a new model has zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ecgmoe.backbones import registry
from ecgmoe.backbones.base import Backbone, Lora
from ecgmoe.backbones.config import BackboneConfig, Size
from ecgmoe.ecg.record import MISSING
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE
from model_examples import TASKS, statistics

BACKBONES = ("dlinear", "timesnet", "moment", "tempo", "ecgfm", "residual_network")
RESIDUAL_NETWORK = "ecgmoe.backbones.residual_network:ResidualNetwork"


def backbone(name: str, size: Size = "tiny") -> Backbone:
    """At random weights, with adapters that do something where it has attention."""
    own = RESIDUAL_NETWORK if name == "residual_network" else None
    net = registry.build(BackboneConfig(name=name, size=size, seed=1, implementation=own))
    if net.attention and net.own_lora is None:
        net.add_lora(Lora(rank=2, alpha=4.0))
    return shaken(net)


def shaken(net: Any) -> Any:
    """The same net with adapters, biases and learnt scales away from where they start."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_B" in name or name.endswith((".B", "bias")) or parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


def model_of(names: tuple[str, ...] = BACKBONES, size: Size = "tiny", **changes: Any) -> ECGMoE:
    """A model on these backbones, all of them live."""
    torch.manual_seed(0)
    live = {name: backbone(name, size) for name in names}
    return shaken(
        ECGMoE(
            ModelConfig(**({"width": 16, "lora_rank": 2} | changes)),
            tasks=TASKS,
            widths={name: each.width for name, each in live.items()},
            statistics=statistics(),
            live=live,
        )
    )


class EveryTenth(nn.Module):
    """A detector that a test can foresee: nine beats, of a record without a sample none, of the others' first one alone."""

    def forward(self, signal: Tensor) -> Tensor:
        at = torch.arange(250, 4750, 500, dtype=torch.int32).expand(signal.shape[0], -1)
        none = (signal.int() == MISSING).all(2).all(1)[:, None]
        return torch.where(none, -1, at)


def waves(count: int) -> Tensor:
    """Smooth records of some millivolt, the last of them without a sample: int16 (count, 12, 5000)."""
    generator = torch.Generator().manual_seed(3)
    time = torch.arange(5000) / 500
    rate = 0.7 + 2 * torch.rand(count, 12, 1, generator=generator)
    noise = 20 * torch.randn(count, 12, 5000, generator=generator)
    signal = (800 * torch.sin(2 * torch.pi * rate * time) ** 15 + noise).round().to(torch.int16)
    signal[-1] = MISSING
    signal[0, 3] = MISSING
    return signal
