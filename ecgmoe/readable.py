"""Quantities as a person reads them, in every stage's progress lines."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """Seconds as 42 s, 3:05 min or 2:10 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def size(count: int) -> str:
    """Bytes as 12 MB or, from 1 GB on, as 42.4 GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
