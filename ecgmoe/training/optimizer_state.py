"""What the optimiser keeps of one parameter, read and set whole, at any ZeRO stage.

DeepSpeed hands the optimiser other tensors than the model's parameters: the parameters themselves at stage 0, this rank's
stretch of each flattened parameter group at stages 1 and 2, and this rank's stretch of each parameter, several of them
end to end, at stage 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    lazy_init_hp_params_optimizer_state,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

STEP = "step"


class OptimizerState:
    """The optimiser of an engine. `parameter` and `get` are collective calls: every rank must make them, in one order.

    Attributes:
        keys: what it keeps of each element, e.g. exp_avg and exp_avg_sq; empty before the first step.
        step: steps that it counted, the same for all parameters; None where it does not count.
    """

    def __init__(self, engine: deepspeed.DeepSpeedEngine) -> None:
        self.stage, self.optimizer = engine.zero_optimization_stage(), engine.optimizer
        # DeepSpeed's optimiser wraps torch's, except at stage 0.
        self.base: torch.optim.Optimizer = self.optimizer.optimizer if self.stage else self.optimizer
        states = [state for tensor in self._stepped() if (state := self.base.state.get(tensor))]
        self.keys = sorted(
            {key for state in states for key, value in state.items() if self._is_element_wise(key, value)}
        )
        self.step = max((float(state[STEP]) for state in states if STEP in state), default=None)
        if self.keys:
            self._link()

    def parameter(self, parameter: nn.Parameter) -> Tensor:
        """The whole parameter in fp32."""
        return safe_get_full_fp32_param(parameter) if self.stage else parameter.detach().float()

    def get(self, parameter: nn.Parameter, key: str) -> Tensor:
        """What the optimiser keeps of it under `key`, in the parameter's shape; zeros where it never got a gradient."""
        if self.stage:
            return safe_get_full_optimizer_state(parameter, key)
        value = self.base.state[parameter].get(key)
        return torch.zeros_like(parameter) if value is None else value

    def set_parameter(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set the whole parameter; `parameters_are_set` must follow the last one."""
        if self.stage < 3:
            parameter.data.copy_(value)
            return
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if dist.get_rank() == 0:
                parameter.data.copy_(value)

    def parameters_are_set(self) -> None:
        """Tell the optimiser's own copies of the weights."""
        if self.stage:
            self.optimizer.refresh_fp32_params()

    def start(self, keys: Sequence[str], step: float | None) -> None:
        """Make the state that torch would make at the first step, so that `set` has something to set."""
        for tensor in self._stepped():
            state = {key: torch.zeros_like(tensor, requires_grad=False) for key in keys}
            # torch counts on the CPU, in a tensor of each parameter's own.
            self.base.state[tensor] = state if step is None else {STEP: torch.tensor(step), **state}
        if keys:
            self._link()

    def set(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        """Set what is kept of a parameter under `key` from the whole tensor; each rank takes its own part."""
        if self.stage == 0:
            self.base.state[parameter][key].copy_(value)
        elif self.stage < 3:
            safe_set_full_optimizer_state(parameter, value, key)
        else:
            # DeepSpeed's setter of the whole tensor fails where the ranks do not divide the number of elements.
            safe_set_local_optimizer_state(parameter, own_part(parameter, value), key)

    def _stepped(self) -> list[Tensor]:
        """The tensors that torch's optimiser steps."""
        if self.stage == 0:
            return [parameter for group in self.base.param_groups for parameter in group["params"]]
        return (
            self.optimizer.single_partition_of_fp32_groups
            if self.stage < 3
            else self.optimizer.fp32_partitioned_groups_flat
        )

    def _link(self) -> None:
        """Let DeepSpeed find a parameter's part of the flat state at stages 1 and 2.

        It does so by itself after the first step of the first group, when the other groups have no state yet.
        """
        if self.stage in (1, 2):
            for parameters, flat in zip(self.optimizer.bit16_groups, self._stepped(), strict=True):
                lazy_init_hp_params_optimizer_state(parameters, flat, self.base.state)

    @staticmethod
    def _is_element_wise(key: str, value: object) -> bool:
        return key != STEP and isinstance(value, Tensor)


def own_part(parameter: Any, value: Tensor) -> Tensor:
    """This rank's stretch of a tensor that ZeRO 3 shards like `parameter`; zeros fill up the last one."""
    size, rank = parameter.ds_tensor.numel(), dist.get_rank(parameter.ds_process_group)
    part = value.reshape(-1)[rank * size : (rank + 1) * size]
    return nn.functional.pad(part, (0, size - len(part)))
