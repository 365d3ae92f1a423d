"""One recording that is in memory already, on the same way to a canonical record as one from a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ecgmoe.ecg.convert import MV_PER_UNIT, to_canonical
from ecgmoe.ecg.reader_options import Unit
from ecgmoe.ecg.record import RecordFault, Signal


def from_array(
    samples: npt.ArrayLike, fs: float, leads: Sequence[str], unit: Unit = "mV", *, pad_short: bool = False
) -> Signal:
    """A canonical record from an array.

    Args:
        samples: (leads, samples), NaN where a sample is missing.
        fs: sampling rate in Hz.
        leads: name of each row; further leads than the twelve are left out.
        unit: of the samples.
        pad_short: fill a record of less than 10 s with `MISSING` at its end, instead of refusing it.

    Returns:
        int16 (12, 5000), microvolt; see `ecgmoe.ecg.record`.

    Raises:
        RecordFault: the array has another shape or holds no numbers, or it cannot be made canonical (`to_canonical`).
        ValueError: an unknown unit, or `leads` is one text.
    """
    if unit not in MV_PER_UNIT:
        raise ValueError(f"unknown unit {unit!r}: choose one of {', '.join(MV_PER_UNIT)}")
    if isinstance(leads, str):
        raise ValueError(f"leads is the text {leads!r}: give a sequence of names, such as ('I', 'II', ...)")
    array = np.asarray(samples)
    if array.dtype.kind not in "iuf":
        raise RecordFault(f"the array holds {array.dtype}, expected real numbers")
    if array.ndim != 2 or len(array) != len(leads):
        turned = array.ndim == 2 and array.shape[1] == len(leads)
        raise RecordFault(
            f"the array has shape {array.shape}, expected ({len(leads)} leads, samples)"
            + (": pass array.T" if turned else ": one row for each name in leads")
        )
    return to_canonical(array.T.astype(np.float64) * MV_PER_UNIT[unit], fs, leads, pad_short=pad_short)
