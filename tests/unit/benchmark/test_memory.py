"""The memory of a process and of those that it started."""

from __future__ import annotations

import multiprocessing

from ecgmoe.benchmark.memory import Watch


def hold(size: int, filled: object, leave: object) -> None:
    held = bytearray(b"x" * size)
    filled.set()  # type: ignore[attr-defined]
    leave.wait(60)  # type: ignore[attr-defined]
    assert held


def test_children_count_too() -> None:
    size, context = 200 << 20, multiprocessing.get_context("spawn")
    filled, leave = context.Event(), context.Event()
    with Watch(60) as watch:
        assert watch.together >= watch.driver > 0
        child = context.Process(target=hold, args=(size, filled, leave))
        child.start()
        assert filled.wait(60)
        before = watch.driver
        watch.sample()
        leave.set()
        child.join()
    assert watch.together >= before + size
    assert watch.driver < before + size
    assert watch.worker == 0
