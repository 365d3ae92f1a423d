"""Compile DeepSpeed's ops ahead of the first training step: `python -m ecgmoe.training.warm_up [BUILDER ...]`.

Without names it is the shared-memory communication op, the one that training uses on CPUs. On GPUs it uses none: its
optimisers are torch's. Others are named where an own configuration needs them, under DS_ACCELERATOR=cuda.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

ON_CPUS = ("ShareMemCommBuilder",)


def warm_up(builders: Sequence[str] = ON_CPUS) -> float:
    """Build ops, or find them in the torch extensions folder.

    Args:
        builders: names of DeepSpeed's builders.

    Returns:
        Seconds that it took: a fraction of one when they were there already.

    Raises:
        ValueError: DeepSpeed has no such builder for this accelerator.
        RuntimeError: the compiler failed; the message holds its output.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.accelerator import get_accelerator

    start = time.perf_counter()
    for name in builders:
        builder = get_accelerator().create_op_builder(name)
        if builder is None:
            raise ValueError(
                f"DeepSpeed has no op builder {name!r} for {get_accelerator().device_name()}: name another"
            )
        builder.load(verbose=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    named = sys.argv[1:] or list(ON_CPUS)
    print(f"setup: DeepSpeed's {', '.join(named)} ready ({warm_up(named):.1f} s)")
