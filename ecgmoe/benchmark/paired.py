"""Two ways to do the same work, turn and turn about on one machine, and the interval of their ratio."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Of pairs that were measured side by side.

    Attributes:
        median: of the pairs' ratios.
        low: end of its interval.
        high: end of its interval.
        ratios: of each pair, in the order in which they were measured.
    """

    median: float
    low: float
    high: float
    ratios: tuple[float, ...]

    def line(self) -> str:
        """As a table prints it."""
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleaved(ways: Sequence[Callable[[], float]], pairs: int, warm_up: int = 1) -> list[list[float]]:
    """Call all ways in turn, in alternating order, so that whatever drifts meets each of them alike.

    Args:
        ways: each does its work once and returns its figure, such as records per second.
        pairs: rounds that count.
        warm_up: rounds before them that do not.

    Returns:
        By way its figures in the order of the rounds.
    """
    found: list[list[float]] = [[] for _ in ways]
    for turn in range(warm_up + pairs):
        order = range(len(ways)) if turn % 2 == 0 else range(len(ways) - 1, -1, -1)
        for way in order:
            figure = ways[way]()
            if turn >= warm_up:
                found[way].append(figure)
    return found


def ratio(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """`one` / `other`, pair by pair, with the interval of the median that needs no distribution: two of the ordered ratios.

    Raises:
        ValueError: with fewer than six pairs no such interval has 95 %.
    """
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    low, high = interval(ratios)
    return Ratio(median=statistics.median(ratios), low=low, high=high, ratios=tuple(ratios))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the values' median, two of them that need no distribution.

    Raises:
        ValueError: of fewer than six values no such interval has 95 %.
    """
    place, ordered = _rank(len(values)), sorted(values)
    return ordered[place], ordered[-1 - place]


def _rank(count: int) -> int:
    """How many of `count` ordered values lie outside of the median's interval at each end: P(fewer than rank + 1 of so many
    tosses are heads) is at most half of what the confidence leaves.

    Raises:
        ValueError: there are fewer than six.
    """
    below, place = 0.0, -1
    while True:
        below += math.comb(count, place + 1) / 2**count
        if below > (1 - CONFIDENCE) / 2:
            break
        place += 1
    if place < 0:
        raise ValueError(f"an interval needs at least 6 pairs, got {count}: raise --pairs")
    return place
