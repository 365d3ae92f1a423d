"""Why records could not be used, summed up: the most frequent kinds of reason."""

from __future__ import annotations

from collections import Counter

from ecgmoe.pipeline.card import general_reason


class FrequentReasons:
    """Counts reasons by their kind, and keeps one record's own words for each, which hold the remedy."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, path: str, reason: str) -> None:
        """One more record that could not be used."""
        kind = general_reason(reason)
        self._counts[kind] += 1
        self._examples.setdefault(kind, f"{path}: {reason}")

    def most(self, kinds: int = 3) -> list[str]:
        """The most frequent kinds, each as its number of records and the first of them."""
        return [f"{count:,} as {self._examples[kind]}" for kind, count in self._counts.most_common(kinds)]
