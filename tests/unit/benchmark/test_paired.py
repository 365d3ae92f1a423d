"""Pairs are measured in alternating order, and their ratio has the interval that it claims."""

from __future__ import annotations

import numpy as np
import pytest

from ecgmoe.benchmark.paired import interleaved, ratio


def test_the_order_alternates_and_the_warm_up_does_not_count() -> None:
    called: list[str] = []

    def way(name: str) -> float:
        called.append(name)
        return float(len(called))

    found = interleaved([lambda: way("a"), lambda: way("b")], pairs=3, warm_up=1)
    assert called == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert found == [[4.0, 5.0, 8.0], [3.0, 6.0, 7.0]]


def test_the_interval_is_that_of_the_order_statistics() -> None:
    """Of ten pairs the second and the ninth: 1 - 2 * (1 + 10) / 1024 = 97.9 %; the first and last of six: 96.9 %."""
    found = ratio([float(n) for n in range(1, 11)], [1.0] * 10)
    assert (found.median, found.low, found.high) == (5.5, 2.0, 9.0)
    found = ratio([6.0, 1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 6)
    assert (found.low, found.high) == (1.0, 6.0)
    with pytest.raises(ValueError, match="at least 6 pairs, got 5"):
        ratio([1.0] * 5, [1.0] * 5)


@pytest.mark.parametrize("pairs", [6, 10, 25])
def test_it_covers_the_median_as_often_as_it_says(pairs: int) -> None:
    random = np.random.default_rng(3)
    draws = random.lognormal(size=(4000, pairs))
    found = [ratio(each.tolist(), [1.0] * pairs) for each in draws]
    covered = np.mean([each.low <= 1.0 <= each.high for each in found])
    # Three standard errors of 4,000 draws at 95 % are 1 %.
    assert covered > 0.94
