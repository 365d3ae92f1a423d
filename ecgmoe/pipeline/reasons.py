"""Why records could not be used, summed up: the most frequent kinds of reason."""

from __future__ import annotations

import re
from collections import Counter


def general_reason(reason: str) -> str:
    """A reason without what is one record's own: leads, numbers, names of files, quoted text."""
    reason = re.sub(r"'[^']*'", "'...'", reason.split(": ")[0])
    reason = re.sub(r"\S+\.(hea|dat|mat)\b", r"*.\1", reason)
    return re.sub(r"[-+]?\d+(?:[.,]\d+)*", "#", reason)


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
