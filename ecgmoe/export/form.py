"""A trained model in its inference form: the same function, without what only training needs or no graph can hold.

Everything is replaced in a copy: training code and its numbers stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ecgmoe.backbones.resample import FourierResample, fourier_resample
from ecgmoe.backbones.timesnet import TimesBlock, TimesNet
from ecgmoe.ecg.record import N_SAMPLES
from ecgmoe.export.times_block import GatheredTimesBlock
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.fusion import TaskLoRALinear
from ecgmoe.model.gating import Positions

SHARED_FROM = 128
"""Model width from which on the trunk's task adapters stay apart: a weight for each task is then more to read than the
adapters save. EXPORT.md has the measurement."""


class MatrixResample(nn.Module):
    """`FourierResample` of a canonical record as one product with a matrix (5000, samples).

    onnxruntime's transform of 5000 samples is off by up to 1e-3 of the signal's spread and takes longer.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.register_buffer("matrix", fourier_resample(torch.eye(N_SAMPLES), samples), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., 5000) to (..., samples)."""
        # A constant lead stays one: a backbone that standardises leads would make a signal of what rounding leaves.
        level = x[..., :1].float()
        return (x.float() - level) @ self.get_buffer("matrix") + level


class MergedTaskLinear(nn.Module):
    """`TaskLoRALinear` with each task's adapter added to the shared weight: P dense layers, one batched product."""

    def __init__(self, layer: TaskLoRALinear) -> None:
        super().__init__()
        if layer.A is None or layer.B is None:
            raise ValueError("a layer of rank 0 has no adapters to merge")
        adapters = layer.scale * torch.einsum("por,pri->pio", layer.B.detach(), layer.A.detach())
        self.register_buffer("weight", layer.shared.weight.detach().T + adapters)
        self.register_buffer("bias", layer.shared.bias.detach().clone())

    def forward(self, x_BPI: Tensor, tasks: Positions) -> Tensor:
        """(B, P, I) to (B, P, O), of the tasks at these positions."""
        return torch.einsum("bpi,pio->bpo", x_BPI, self.get_buffer("weight")[tasks]) + self.get_buffer("bias")


def inference_form(model: ECGMoE) -> ECGMoE:
    """A copy of a model that `torch.compile` takes without a graph break, and `torch.export` and ONNX as a whole.

    peft's adapters are merged into the attention that they are on, weight norm into its convolution, transforms become
    products with matrices, and TimesNet's layers get shapes that do not depend on the data.

    Args:
        model: a trained one, on the CPU or a GPU.
    """
    form = copy.deepcopy(model).eval().requires_grad_(False)
    form.computes_chosen_only = False
    for backbone in form.live.values():
        merge_adapters(backbone)
        without_parametrizations(backbone)
        if isinstance(backbone.resample, FourierResample) and backbone.samples != N_SAMPLES:
            backbone.resample = MatrixResample(backbone.samples)
        if isinstance(backbone, TimesNet):
            length = backbone.architecture.samples + backbone.architecture.horizon
            _replace(backbone, TimesBlock, lambda block, length=length: GatheredTimesBlock(block, length))
    if form.config.width < SHARED_FROM:
        merge_task_adapters(form)
    return form


def merge_adapters(module: nn.Module) -> None:
    """Add peft's adapters to the weights that they are on, and leave the plain layers."""

    def merged(layer: BaseTunerLayer) -> nn.Module:
        layer.merge()
        plain: nn.Module = layer.get_base_layer()
        return plain

    _replace(module, BaseTunerLayer, merged)


def merge_task_adapters(module: nn.Module) -> None:
    """Give each task of a trunk dense layers of its own."""
    _replace(module, TaskLoRALinear, lambda layer: layer if layer.A is None else MergedTaskLinear(layer))


def without_parametrizations(module: nn.Module) -> None:
    """Keep the value of every parametrized weight (weight norm) as a plain one."""
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            values = {name: getattr(part, name).detach() for name in part.parametrizations}  # type: ignore[union-attr]
            # torch's own remove_parametrizations takes the weight from the class, which other copies of the module share.
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _replace(module: nn.Module, kind: type, build: Callable[..., nn.Module]) -> None:
    """Replace every module of a kind below `module`."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, build(child))
