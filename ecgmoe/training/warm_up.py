"""Compile DeepSpeed's shared-memory communication op ahead of the first training step: `python -m ecgmoe.training.warm_up`."""

from __future__ import annotations

import os
import time


def warm_up() -> float:
    """Build (or find in the torch extensions folder) the op that DeepSpeed uses on CPUs.

    Returns:
        Seconds that it took: a fraction of one when it was there already.

    Raises:
        RuntimeError: the compiler failed; the message holds its output.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.accelerator import get_accelerator

    start = time.perf_counter()
    get_accelerator().create_op_builder("ShareMemCommBuilder").load(verbose=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(f"setup: DeepSpeed's communication op is ready ({warm_up():.1f} s)")
