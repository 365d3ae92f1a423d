"""WFDB records of the most common kind, read without `wfdb`: whole, all signals in one file of 16 bits, every field given.

PTB-XL, LUDB and MIMIC-IV-ECG are of this kind. `wfdb` takes some four milliseconds for such a record, most of it to look up
defaults for fields that are there; it stays the reader of everything else, and of any header in which the smallest thing is
out of the ordinary (header(5), signal(5), https://physionet.org/physiotools/wag/).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

_INVALID = -(1 << 15)
"""Format 16's sample for "there is none"."""
_RECORD = re.compile(
    r"[-\w]{1,80} [1-9]\d{0,3} \d{1,6}(?:\.\d{1,6})? (?P<samples>[1-9]\d{0,8})"
    r"(?: (?P<clock>\d\d:\d\d:\d\d) (?P<date>\d\d/\d\d/\d{4}))?",
    re.ASCII,
)
_SIGNAL = re.compile(
    r"(?P<file>[-\w]{1,80}\.\w{1,10}) 16 (?P<gain>\d{1,9}(?:\.\d{1,9})?)\((?P<baseline>-?\d{1,9})\)/[a-zA-Z]{1,9}"
    r" \d{1,9} -?\d{1,9} -?\d{1,9} (?P<checksum>-?\d{1,9}) \d{1,9} (?P<name>[-\w]{1,20})",
    re.ASCII,
)


@dataclass
class PlainRecord:
    """What is used of a `wfdb.Record`, by its names.

    Attributes:
        sig_name: names of the leads.
        checksum: of each lead.
        adc_gain: steps per unit of each lead.
        baseline: the step of 0.
        d_signal: (n, leads) int64 steps.
        p_signal: (n, leads) in the units of the header, NaN where a sample is missing; empty before `dac`.
    """

    sig_name: list[str]
    checksum: list[int]
    adc_gain: list[float]
    baseline: list[int]
    d_signal: npt.NDArray[np.int64]
    p_signal: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def dac(self, inplace: bool) -> None:
        """Steps to units."""
        assert inplace
        self.p_signal = (self.d_signal - np.array(self.baseline, np.float64)) / np.array(self.adc_gain)
        self.p_signal[self.d_signal == _INVALID] = np.nan


def read_plain(lines: Sequence[str], folder: Path) -> PlainRecord | None:
    """Read a record of the common kind.

    Args:
        lines: of a header that was found to be sound, and whose files are as large as it says; without comments.
        folder: in which its signal file lies.

    Returns:
        None where it is of another kind, or may be.
    """
    record = _RECORD.fullmatch(lines[0])
    signals = [_SIGNAL.fullmatch(line) for line in lines[1:]]
    found = [signal for signal in signals if signal]
    if record is None or len(found) < len(signals) or len({signal["file"] for signal in found}) != 1:
        return None
    if record["date"]:
        try:
            datetime.strptime(f"{record['clock']} {record['date']}", "%H:%M:%S %d/%m/%Y")
        except ValueError:
            return None
    samples = int(record["samples"])
    steps = np.fromfile(folder / found[0]["file"], "<i2", samples * len(found))
    if len(steps) < samples * len(found):
        # Cut off since it was looked at.
        return None
    return PlainRecord(
        sig_name=[signal["name"] for signal in found],
        checksum=[int(signal["checksum"]) for signal in found],
        adc_gain=[float(signal["gain"]) for signal in found],
        baseline=[int(signal["baseline"]) for signal in found],
        d_signal=steps.reshape(samples, len(found)).astype(np.int64),
    )
