"""The part of a checkpoint that any number of workers reads at any ZeRO stage: one safetensors file, everything by name.

    parameter/NAME        each trained parameter, whole, fp32
    buffer/NAME           each persistent buffer of the module
    exp_avg/NAME ...      what the optimiser keeps of that parameter: exp_avg, exp_avg_sq and step of AdamW,
                          momentum_buffer of SGD
    header "schedule"     state of the learning rate schedule, and the present rate of each parameter group (JSON)

Frozen parameters are not in it: the model is built anew, with their weights, before it is loaded.
One tensor at a time is gathered, and rank 0 writes it before the next one is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn

from ecgmoe.training.optimizer_state import STEP, OptimizerState
from ecgmoe.training.safetensors_stream import Entry, write_stream

FILE = "portable.safetensors"
PARAMETER, BUFFER, SCHEDULE = "parameter", "buffer", "schedule"


def save(engine: deepspeed.DeepSpeedEngine, folder: Path) -> None:
    """Write the file; every rank must call it, and rank 0 alone writes."""
    state = OptimizerState(engine)
    entries = _entries(engine.module, state)
    values = _values(engine.module, state)
    if dist.get_rank() == 0:
        write_stream(folder / FILE, entries, values, {SCHEDULE: json.dumps(_schedule(engine))})
    else:
        for _ in values:
            pass


def load(engine: deepspeed.DeepSpeedEngine, folder: Path) -> None:
    """Restore weights, optimiser and schedule from whatever layout wrote them; every rank must call it.

    Raises:
        RuntimeError: the file is missing, or it is of another model.
    """
    if not (folder / FILE).is_file():
        raise RuntimeError(f"{folder} has no {FILE}: its files are not whole")
    state = OptimizerState(engine)
    with safe_open(folder / FILE, "pt") as file:
        names = list(file.keys())
        kept = sorted({name.partition("/")[0] for name in names} - {PARAMETER, BUFFER})
        _check_names(folder, names, engine.module, kept)
        trained = _trained(engine.module)
        for name, parameter in trained.items():
            state.set_parameter(parameter, file.get_tensor(f"{PARAMETER}/{name}"))
        state.parameters_are_set()
        for name, buffer in _buffers(engine.module).items():
            buffer.copy_(file.get_tensor(f"{BUFFER}/{name}"))
        # All parameters take every step together, and where they are flattened there is one count for all.
        steps = [file.get_tensor(name).item() for name in names if name.startswith(f"{STEP}/")]
        keys = [key for key in kept if key != STEP]
        state.start(keys, max(steps, default=None))
        for name, parameter in trained.items():
            for key in keys:
                state.set(parameter, key, file.get_tensor(f"{key}/{name}"))
        _set_schedule(engine, json.loads(file.metadata()[SCHEDULE]))


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """The persistent ones: what is in the state and no parameter."""
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if not isinstance(value, nn.Parameter)}


def _entries(module: nn.Module, state: OptimizerState) -> list[Entry]:
    """What the file holds, in the order of `_values`."""
    found = [
        Entry(name=f"{BUFFER}/{name}", dtype=value.dtype, shape=tuple(value.shape))
        for name, value in _buffers(module).items()
    ]
    of_parameter = partial(Entry, dtype=torch.float32)
    for name, parameter in _trained(module).items():
        # Where ZeRO 3 has sharded it, its own shape is that of nothing.
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        found += [of_parameter(name=f"{key}/{name}", shape=shape) for key in (PARAMETER, *state.keys)]
        if state.step is not None:
            found.append(of_parameter(name=f"{STEP}/{name}", shape=()))
    return found


def _values(module: nn.Module, state: OptimizerState) -> Iterator[Tensor]:
    """Every tensor of `_entries`, each gathered when it is asked for."""
    yield from _buffers(module).values()
    for parameter in _trained(module).values():
        yield state.parameter(parameter)
        for key in state.keys:
            yield state.get(parameter, key)
        if state.step is not None:
            yield torch.tensor(state.step)


def _check_names(folder: Path, names: list[str], module: nn.Module, kept: list[str]) -> None:
    expected = {f"{BUFFER}/{name}" for name in _buffers(module)}
    expected |= {f"{key}/{name}" for name in _trained(module) for key in (PARAMETER, *kept)}
    if differing := sorted(expected ^ set(names)):
        raise RuntimeError(f"{folder / FILE} is of another model: it differs in {', '.join(differing[:5])}")


def _schedule(engine: deepspeed.DeepSpeedEngine) -> dict[str, Any]:
    rates = [group["lr"] for group in engine.optimizer.param_groups]
    return {"state": engine.lr_scheduler.state_dict(), "learning_rates": rates}


def _set_schedule(engine: deepspeed.DeepSpeedEngine, stored: dict[str, Any]) -> None:
    engine.lr_scheduler.load_state_dict(stored["state"])
    # A schedule sets the rates of the groups when it steps, not when it is loaded.
    for group, rate in zip(engine.optimizer.param_groups, stored["learning_rates"], strict=True):
        group["lr"] = rate
