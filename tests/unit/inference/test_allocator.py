"""Page faults of a process that takes and frees large tensors, counted by the kernel."""

import platform
import subprocess
import sys

import pytest

from ecgmoe.allocator import keep_freed_memory
from ecgmoe.pipeline.embed_shard import EncodeShard

TIMES, MEGABYTES, PAGE = 8, 40, 4096
COUNT = f"""
import resource
import torch
from ecgmoe.allocator import keep_freed_memory
{{first}}

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones({MEGABYTES} << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(20)
print(faults({TIMES}))
"""


def page_faults(first: str) -> int:
    found = subprocess.run(
        [sys.executable, "-c", COUNT.format(first=first)], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what it is about")
def test_freed_memory_is_taken_again_instead_of_being_cleared_anew() -> None:
    pages = TIMES * (MEGABYTES << 20) // PAGE
    assert page_faults("keep_freed_memory()") < pages / 100
    # Or the test would show nothing: above 32 MB, glibc as it comes always asks the kernel.
    assert page_faults("") > pages / 10


def test_a_system_without_glibc_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def __init__(self, name: None) -> None:
            pass

    monkeypatch.setattr("ctypes.CDLL", Nothing)
    assert keep_freed_memory() is False


def test_an_actor_that_encodes_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr("ecgmoe.pipeline.embed_shard.keep_freed_memory", lambda: called.append(True))
    EncodeShard("data", [], batch_size=32, precision="fp32", gpu_share=0.0)
    assert called
