"""How glibc treats the memory that tensors on a CPU give back."""

from __future__ import annotations

import ctypes

# Numbers of malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = 2**31 - 1
"""The largest threshold that mallopt takes, 2 GiB."""
STEP_BYTES = 64 << 20
"""The heap grows by so much at once."""


def keep_freed_memory() -> bool:
    """Keep what is freed for the next tensors of this process instead of giving it back to the kernel.

    As it comes, glibc takes each large tensor anew from the kernel, which clears it page by page when it is first touched: a
    forward pass on a CPU spends a quarter of its time so (docs/LOG.md). The price is that a process stays as large as it was at
    its largest. Meant for processes of ours that do nothing but passes, not for whoever imports this package.

    Returns:
        Whether it was set; False on a system without glibc, where nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # All three, or none: to set one of them ends glibc's own adapting of the others.
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, NEVER), mallopt(M_TOP_PAD, STEP_BYTES)])
