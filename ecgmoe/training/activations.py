"""What a forward pass keeps for its backward pass, and which parameters it reads: counted, not estimated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ecgmoe.backbones.base import Backbone
from ecgmoe.model.batch import ECGBatch
from ecgmoe.training.random_state import random_state, set_random_state


@dataclass(frozen=True, kw_only=True)
class ForwardPass:
    """What one record costs.

    Attributes:
        kept_bytes: kept per record for the backward pass.
        read: elements of the parameters of all modules that ran.
    """

    kept_bytes: float
    read: int


def measure_forward(model: nn.Module, batch: ECGBatch) -> ForwardPass:
    """Run a batch through a model in training mode, and leave the model and the random numbers as they were.

    Kernels of another device may keep something else: those of attention above all.
    """
    modes, state = [(module, module.training) for module in model.modules()], random_state()
    try:
        with modules_that_run() as ran:
            kept = kept_bytes(lambda: model.train()(batch), but=model.parameters())
    finally:
        for module, training in modes:
            module.training = training
        set_random_state(state)
    parameters = {id(parameter): parameter for module in ran for parameter in own_parameters(module)}
    return ForwardPass(kept_bytes=kept / len(batch), read=sum(each.numel() for each in parameters.values()))


def kept_bytes(forward: Callable[[], object], but: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for the backward pass of what `forward` computes, each storage once.

    Args:
        forward: what to run.
        but: tensors that are there anyhow, parameters for instance.
    """
    kept: dict[int, int] = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in but}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        # Detached: an output that its own graph node held would never be freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()  # held until all is counted: a freed storage would give its address to the next
    total = sum(kept.values())
    del output
    return total


@contextlib.contextmanager
def modules_that_run() -> Iterator[set[nn.Module]]:
    """A set that fills with the modules whose forward pass is called: those that ZeRO 3 gathers weights for."""
    ran: set[nn.Module] = set()
    handle = register_module_forward_pre_hook(lambda module, _: ran.add(module))
    try:
        yield ran
    finally:
        handle.remove()


def own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Those that ZeRO 3 gathers when a module's forward pass is called."""
    called_by_data: Any = tuple(module.called_by_data) if isinstance(module, Backbone) else ()
    yield from module.parameters(recurse=False)
    # Gathered as one, whichever of their modules the data call.
    for inner in module.modules():
        if called_by_data and isinstance(inner, called_by_data):
            yield from inner.parameters()
