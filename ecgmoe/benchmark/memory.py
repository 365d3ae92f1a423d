"""Run a function in a process of its own and say how much memory it took."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


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
