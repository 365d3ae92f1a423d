"""FLOPs of what a model computes, counted the same way for its gates, for tables and for rooflines."""

from __future__ import annotations

from collections.abc import Callable

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(run: Callable[[], object]) -> int:
    """FLOPs of the matrix products and convolutions that `run` makes, as torch counts them.

    Attention is counted as the two products that it is: a fused kernel would not be seen on every device. `run` must not
    take no_grad, which the counter's own bookkeeping does not stand where one module hands a weight to another.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        run()
    return counted.get_total_flops()
