"""How much memory a function takes in a process of its own, and a process with all that it starts."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run cost.

    Attributes:
        value: what the function returned.
        seconds: wall time of the function, without starting the process and importing.
        peak_bytes: largest resident memory of the process.
        base_bytes: the same just before the function began: the interpreter and its imports.
    """

    value: Any
    seconds: float
    peak_bytes: int
    base_bytes: int


def measured(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Call a picklable function in a fresh process.

    Raises:
        RuntimeError: it failed; its traceback is on the standard error.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError as error:
        raise RuntimeError(f"{function.__name__} failed, see above") from error
    finally:
        process.join()


def _run(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    base, start = peak_bytes(), time.perf_counter()
    value = function(*arguments)
    seconds = time.perf_counter() - start
    pipe.send(Measured(value=value, seconds=seconds, peak_bytes=peak_bytes(), base_bytes=base))


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    From /proc, because the figure of `getrusage` begins with that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Watch:
    """Samples the resident memory of this process and of those that it started, while it is open.

    What lives shorter than the interval is missed. Memory that several processes share, as Ray's object store and what a
    forked process has not written to, counts in each of them, so that `together` is an upper bound.

    Args:
        interval_s: between two samples; one takes some milliseconds, of which ten in a second would show in what is measured.

    Attributes:
        driver: bytes of this process at most.
        worker: of its largest Ray worker.
        together: of this process and all below it in one sample, at most.
    """

    def __init__(self, interval_s: float = 0.25) -> None:
        self.interval, self.driver, self.worker, self.together = interval_s, 0, 0, 0

    def __enter__(self) -> Watch:
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.sample()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.sample()

    def _run(self) -> None:
        while not self.done.wait(self.interval):
            self.sample()

    def sample(self) -> None:
        """Look once."""
        me = psutil.Process()
        own = together = me.memory_info().rss
        self.driver = max(self.driver, own)
        for child in me.children(recursive=True):
            try:
                held, name = child.memory_info().rss, child.name()
            except psutil.Error:
                # It ended meanwhile.
                continue
            together += held
            if name.startswith("ray::"):
                self.worker = max(self.worker, held)
        self.together = max(self.together, together)
