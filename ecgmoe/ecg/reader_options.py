"""What a reader may assume about a file that does not say it. Free of wfdb and scipy: command lines are built from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["V", "mV", "uV"]


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """How recordings are read; a change makes other records.

    Attributes:
        pad_short: fill a record of less than 10 s with missing samples at its end, instead of refusing it; how many is
            stored beside it.
        mat_unit: unit of MATLAB files without a WFDB header, which do not tell it; they are refused without it.
    """

    pad_short: bool = False
    mat_unit: Unit | None = None
