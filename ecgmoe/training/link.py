"""What a rank tells whoever started it, and hears from there."""

from __future__ import annotations

from typing import Protocol

import ray.train


class Link(Protocol):
    """Between one rank and whoever started it."""

    def report(self, values: dict[str, float]) -> None:
        """Tell of a validated checkpoint; every rank must call it."""

    def preempted_ranks(self) -> list[int] | None:
        """Ranks whose nodes will be taken away, or None; every rank must call it."""


class RayTrain:
    """The link of a worker of Ray Train."""

    def report(self, values: dict[str, float]) -> None:
        """Also a barrier: Ray Train takes what all ranks report."""
        ray.train.report(dict(values))

    def preempted_ranks(self) -> list[int] | None:
        """As Ray's watcher of nodes knows."""
        info = ray.train.get_preemption_info()
        return None if info is None else list(info.preempted_ranks)


class Alone:
    """The link of ranks that nobody started through Ray Train.

    Attributes:
        reported: everything so far.
    """

    def __init__(self) -> None:
        self.reported: list[dict[str, float]] = []

    def report(self, values: dict[str, float]) -> None:
        """Keep it."""
        self.reported.append(values)

    def preempted_ranks(self) -> list[int] | None:
        """Nobody would know."""
        return None
