"""Processes that take turns on one machine, a few steps each, while the others stand still with all their threads.

What such a process starts itself stands still and goes on with it, as a process group: the other ranks of a training.

A machine whose speed changes from one ten seconds to the next meets both of a pair alike only if they are close together;
and what one does ahead of time in its threads must not come out of the other's time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any


class Turn:
    """What a way calls before each of its steps: it waits there while it is another one's turn.

    Args:
        parent: to whom a slice's seconds per step are told.
        steps: of a slice.
        warm_up: steps before the first slice.
    """

    def __init__(self, parent: Connection, steps: int, warm_up: int) -> None:
        self.parent, self.steps, self.begun, self.started = parent, steps, -warm_up, 0.0

    def __call__(self) -> None:
        if self.begun >= 0 and self.begun % self.steps == 0:
            self.parent.send((time.perf_counter() - self.started) / self.steps if self.begun else 0.0)
            self.parent.recv()
            self.started = time.perf_counter()
        self.begun += 1


def sliced(ways: Sequence[Callable[[Turn], Any]], pairs: int, *, steps: int, warm_up: int) -> list[list[float]]:
    """Give each way its turn, in alternating order, `pairs` times.

    Args:
        ways: each runs in a process of its own, so that it has to be picklable, and calls its Turn before every step:
            `warm_up` + `pairs` x `steps` + 1 times.
        pairs: turns of each way.
        steps: of a turn.
        warm_up: steps that do not count.

    Returns:
        By way its seconds per step in the order of the turns.

    Raises:
        RuntimeError: a way ended before its last turn; its own output has the reason.
    """
    context = multiprocessing.get_context("spawn")
    running: list[tuple[BaseProcess, Connection]] = []
    found: list[list[float]] = [[] for _ in ways]
    try:
        for way in ways:
            mine, theirs = context.Pipe()
            # Not a daemon, which must not start others; `finally` ends it and those.
            process = context.Process(target=_run, args=(way, theirs, steps, warm_up))
            process.start()
            theirs.close()
            running.append((process, mine))
            _heard(process, mine)
        for turn in range(pairs):
            for place in range(len(ways)) if turn % 2 == 0 else reversed(range(len(ways))):
                whose, pipe = running[place]
                _signal(whose, signal.SIGCONT)
                pipe.send(None)
                found[place].append(_heard(whose, pipe))
    finally:
        for each, pipe in running:
            # Also those that stand still, and what is left of a group whose first process has ended.
            with contextlib.suppress(ProcessLookupError):
                _signal(each, signal.SIGKILL)
            each.kill()
            each.join()
            pipe.close()
    return found


def _run(way: Callable[[Turn], Any], parent: Connection, steps: int, warm_up: int) -> None:
    os.setpgid(0, 0)
    way(Turn(parent, steps, warm_up))


def _signal(process: BaseProcess, number: signal.Signals) -> None:
    """To it and all that it has started.

    Raises:
        ProcessLookupError: it ended before it had a group of its own, or all of the group has ended.
    """
    assert process.pid is not None
    os.killpg(process.pid, number)


def _heard(process: BaseProcess, pipe: Connection) -> float:
    """What a process says at the end of its turn, after which it stands still."""
    try:
        seconds = pipe.recv()
    except EOFError:
        raise RuntimeError("what is measured ended before its last turn: its own lines above have the reason") from None
    _signal(process, signal.SIGSTOP)
    return float(seconds)
