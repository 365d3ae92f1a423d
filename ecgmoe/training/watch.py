"""A thread beside the training loop of a rank: gives signs of life, hears a wish to stop, and ends a rank that hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any

import ray

from ecgmoe.pipeline.store import Store

EVERY_S = 1.0
STARTING = "starting"
STARTING_S = 900.0
"""Least time for building the model and reading a checkpoint, in which no step can show progress."""
HANGS = 75
"""Exit code of a rank that ended itself."""


class Watch:
    """Watches one rank while it is open.

    A rank that makes no progress is most often not the one at fault: all the others wait for it in a collective. So every
    rank writes down where each of its threads stands, and ends, and Ray Train starts them all anew.

    Args:
        monitor: handle of the run's `Monitor`, or None without one.
        run: folder of the run, for the stacks.
        rank: of this process.
        timeout_s: seconds without progress after which the rank hangs.
    """

    def __init__(self, monitor: Any, run: Store, rank: int, timeout_s: float) -> None:
        self.monitor, self.run, self.rank, self.timeout_s = monitor, run, rank, timeout_s
        self.wish: str | None = None
        self._doing, self._since = STARTING, time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join(10)
        faulthandler.cancel_dump_traceback_later()

    def progress(self, doing: str | None = None) -> None:
        """The rank goes on; with `doing`, with something else."""
        self._since = time.monotonic()
        if doing is not None:
            self._doing = doing

    def _loop(self) -> None:
        armed = 0.0
        while not self._closed.wait(EVERY_S):
            now = time.monotonic()
            # A thread of C, for a rank that hangs in C code and lets no thread of Python run, this one included.
            if now - armed > self.timeout_s / 4:
                faulthandler.dump_traceback_later(2 * max(self.timeout_s, STARTING_S), exit=True)
                armed = now
            self._beat()
            waited = now - self._since
            if waited > (max(self.timeout_s, STARTING_S) if self._doing == STARTING else self.timeout_s):
                self._end(waited)

    def _beat(self) -> None:
        if self.monitor is None:
            return
        # A monitor that is gone takes its driver with it, and Ray ends this process then.
        with contextlib.suppress(ray.exceptions.RayError):
            self.wish = ray.get(self.monitor.beat.remote(self.rank, self._doing), timeout=10 * EVERY_S)

    def _end(self, waited: float) -> None:
        text = f"rank {self.rank} made no progress for {waited:.0f} s while {self._doing}\n\n{stacks()}"
        if self.monitor is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self.monitor.hangs.remote(self.rank, waited), timeout=10 * EVERY_S)
        name = f"faults/hanging-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-rank-{self.rank}.txt"
        written = threading.Event()

        def write() -> None:
            with contextlib.suppress(OSError):
                self.run.write_text(name, text)
                written.set()

        # The storage may be what hangs.
        threading.Thread(target=write, daemon=True).start()
        if written.wait(10):
            text = f"rank {self.rank} hangs; where its threads stand: {self.run.path(name)}"
        print(text, file=sys.stderr, flush=True)
        os._exit(HANGS)


def stacks() -> str:
    """Where every thread of this process stands."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(identity, identity)}:\n{''.join(traceback.format_stack(frame))}"
        for identity, frame in sys._current_frames().items()
    ]
    return "\n".join(parts)
