"""The driver's side while workers train: signals become a checkpoint and an orderly end, and what workers note is printed."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import ray

GRACE_S = 110.0
"""Seconds that the workers have to save a checkpoint once they are asked to stop."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM ended."""


def supervised(fit: Callable[[], Any], monitor: Any) -> Any:
    """Call `fit` in a thread while this one, the main thread, is free for signals.

    SIGTERM (a pre-emption, `ray job stop`) and SIGINT ask the workers to save and to leave; a second one, or GRACE_S
    without an end, leaves at once.

    Args:
        fit: of the trainer.
        monitor: handle of the run's `Monitor`.

    Returns:
        What `fit` returns, and what it raises is raised.

    Raises:
        KeyboardInterrupt: SIGINT.
        SystemExit: with code 143, SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        # A trial of Ray Tune: signals reach its own driver.
        return fit()
    box: dict[str, Any] = {}

    def work() -> None:
        try:
            box["result"] = fit()
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=work, name="fit", daemon=True)
    with signals() as received:
        thread.start()
        asked = None
        while thread.is_alive():
            thread.join(0.5)
            print_notes(monitor)
            if received and asked is None:
                asked = time.monotonic()
                print(f"{name_of(received[0])}: saving a checkpoint and leaving; once more leaves at once", flush=True)
                monitor.stop.remote(name_of(received[0]))
            if len(received) > 1 or (asked and time.monotonic() - asked > GRACE_S):
                break
        print_notes(monitor)
    ended_by = received[0] if received else None
    if thread.is_alive() and ended_by:
        leave(ended_by, "without a new checkpoint")
    if "error" in box:
        raise box["error"]
    if ended_by and stopped_at(box["result"]) is not None:
        leave(ended_by, f"saved at step {stopped_at(box['result']):,}")
    return box["result"]


def stopped_at(result: Any) -> int | None:
    """The step at which the workers left because they were asked to; None where they trained to the end."""
    return (result.return_value or {}).get("stopped_at")


def leave(number: int, how: str) -> None:
    """End this process as the signal says.

    Raises:
        KeyboardInterrupt: SIGINT.
        SystemExit: any other.
    """
    print(f"{name_of(number)}: left, {how}; the same command goes on from here", flush=True)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(TERMINATED)


def print_notes(monitor: Any) -> None:
    """Print what workers noted."""
    with contextlib.suppress(ray.exceptions.RayError):
        for line in ray.get(monitor.take_notes.remote(), timeout=5):
            print(line, flush=True)


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT, in the order in which they come."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def name_of(number: int) -> str:
    """SIGTERM, SIGINT."""
    return signal.Signals(number).name
