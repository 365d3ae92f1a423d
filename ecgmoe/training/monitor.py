"""An actor on the driver's node through which the driver and the workers of a run hear of each other.

It holds no result: where it is gone, training goes on, and only a wish to stop is not heard.
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Monitor:
    """Last sign of life of every rank, a wish to stop, and notes for the person at the driver."""

    def __init__(self) -> None:
        self._wish: str | None = None
        self._ranks: dict[int, tuple[float, str]] = {}
        self._notes: list[str] = []

    def beat(self, rank: int, doing: str) -> str | None:
        """A rank lives and tells what it does; returns why it should stop, or None."""
        self._ranks[rank] = time.monotonic(), doing
        return self._wish

    def starts(self, world: int) -> None:
        """Workers start, perhaps not for the first time."""
        now = time.monotonic()
        self._ranks = dict.fromkeys(range(world), (now, "starting"))

    def stop(self, why: str) -> None:
        """Ask the workers to save a checkpoint and to leave."""
        self._wish = why

    def note(self, line: str) -> None:
        """Say something to whoever started the run."""
        self._notes.append(line)

    def hangs(self, rank: int, seconds: float) -> None:
        """A rank has waited so long that it ends itself; says what each of them did last."""
        now = time.monotonic()
        states = [
            f"rank {each}: {doing}" + (f", no sign of life for {now - then:.0f} s" if now - then > SILENT_S else "")
            for each, (then, doing) in sorted(self._ranks.items())
        ]
        self._notes.append(f"HANGING: rank {rank} made no progress for {seconds:.0f} s ({'; '.join(states)})")

    def take_notes(self) -> list[str]:
        """What was noted since the last call."""
        notes, self._notes = self._notes, []
        return notes


SILENT_S = 10.0
"""Without a sign of life for so long, a process is frozen or its node is gone; a busy one still gives them."""


def start_monitor() -> Any:
    """An actor handle; the actor ends with this process."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Monitor).remote()
