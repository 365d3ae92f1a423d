"""Durations and sizes in progress lines."""

from __future__ import annotations

import pytest

from ecgmoe.readable import clock, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (185, "3:05 min"), (3599.6, "1:00 h"), (7800, "2:10 h"),
     (90_000, "25:00 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(5_300_000, "5 MB"), (999_000_000, "999 MB"), (10**9, "1.0 GB"), (42_400_000_000, "42.4 GB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
