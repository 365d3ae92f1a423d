"""Processes that take turns stand still while it is another one's."""

from __future__ import annotations

import multiprocessing
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from ecgmoe.benchmark.slices import Turn, sliced

STEP_S = 0.05


def busy(folder: Path, name: str, turn: Turn) -> None:
    """Steps, and a thread beside them that would go on for ever."""

    def write() -> None:
        with (folder / f"{name}-thread").open("a", buffering=1) as file:
            while True:
                file.write(f"{time.monotonic()}\n")
                time.sleep(0.002)

    threading.Thread(target=write, daemon=True).start()
    with (folder / f"{name}-steps").open("a", buffering=1) as file:
        while True:
            turn()
            begun = time.monotonic()
            time.sleep(STEP_S)
            file.write(f"{begun} {time.monotonic()}\n")


def waits_for_another(folder: Path, name: str, turn: Turn) -> None:
    """What a way starts itself, which outlives it if nobody ends it."""
    multiprocessing.get_context("spawn").Process(target=busy, args=(folder, name, _no_turn)).start()
    while True:
        turn()
        time.sleep(STEP_S)


def _no_turn() -> None:
    """Of a process that is not asked."""


def ends(turn: Turn) -> None:
    for _ in range(4):
        turn()


def test_one_at_a_time_with_all_its_threads(tmp_path: Path) -> None:
    ways = [partial(busy, tmp_path, "one"), partial(busy, tmp_path, "two")]
    found = sliced(ways, 6, steps=3, warm_up=2)
    assert [len(each) for each in found] == [6, 6]
    assert all(seconds >= STEP_S for each in found for seconds in each)
    assert not multiprocessing.active_children()
    for name, other in (("one", "two"), ("two", "one")):
        lines = [line.split() for line in (tmp_path / f"{name}-steps").read_text().splitlines()]
        steps = [(float(begin), float(end)) for begin, end in lines][2:]
        times = [float(line) for line in (tmp_path / f"{other}-thread").read_text().split()]
        # Half a step, because a process goes on for a moment after it said that its turn is over.
        inside = [at for begin, end in steps for at in times if begin + STEP_S / 2 < at < end]
        assert not inside, f"{other} ran in {len(inside)} places while it was the turn of {name}"
        assert len(times) > 50


def test_what_a_way_has_started_stands_still_with_it_and_ends(tmp_path: Path) -> None:
    sliced([partial(waits_for_another, tmp_path, "child"), partial(busy, tmp_path, "other")], 8, steps=4, warm_up=20)
    lines = [line.split() for line in (tmp_path / "other-steps").read_text().splitlines()]
    steps = [(float(begin), float(end)) for begin, end in lines][20:]
    times = [float(line) for line in (tmp_path / "child-thread").read_text().split()]
    assert len(times) > 50
    inside = [at for begin, end in steps for at in times if begin + STEP_S / 2 < at < end]
    assert not inside
    size = (tmp_path / "child-thread").stat().st_size
    time.sleep(0.1)
    assert (tmp_path / "child-thread").stat().st_size == size


def test_one_that_ends_too_soon() -> None:
    with pytest.raises(RuntimeError, match="ended before its last turn"):
        sliced([ends], 6, steps=1, warm_up=1)
    assert not multiprocessing.active_children()
