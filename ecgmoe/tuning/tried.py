"""A trial of a search, and which of them wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A trial.

    Attributes:
        run: name of its run.
        values: of the options that were varied.
        score: the best of its validations; None where it failed before the first.
        epochs: that it trained.
        failure: one line where it failed.
        curve: by validated quantity ("score", "age_mae"), its value after each epoch.
    """

    run: str
    values: dict[str, Any]
    score: float | None
    epochs: int
    failure: str | None
    curve: dict[str, list[float]]


def best_of(tried: Sequence[Tried]) -> Tried:
    """The trial with the highest score; of equal ones the first.

    Raises:
        ValueError: none has a score; says why.
    """
    scored = [each for each in tried if each.score is not None]
    if not scored:
        reasons = sorted({each.failure or "no validation" for each in tried})
        raise ValueError(f"none of {len(tried)} trials has a score: {'; '.join(reasons)}")
    return max(scored, key=lambda each: each.score or 0.0)
