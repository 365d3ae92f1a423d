"""One recording that a user names or hands over: found by any of its names, and read, or refused with what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy.typing as npt

from ecgmoe.ecg.array import from_array
from ecgmoe.ecg.quality_policy import QualityFault, QualityPolicy
from ecgmoe.ecg.read import UsableRecord, find_record, read_usable, usable
from ecgmoe.ecg.reader_options import ReaderOptions, Unit
from ecgmoe.ecg.record import RecordFault


def given_record(
    source: str | os.PathLike[str] | npt.ArrayLike,
    *,
    fs: float | None = None,
    leads: Sequence[str] | None = None,
    unit: Unit | None = None,
    policy: QualityPolicy | None = None,
    reader: ReaderOptions | None = None,
) -> UsableRecord:
    """The record of a file or an array; the arguments are those of `ecgmoe.predict`.

    Raises:
        ValueError: the record cannot be used, with the reason; or an option that a file would ignore.
    """
    policy, reader = policy or QualityPolicy(), reader or ReaderOptions()
    if not isinstance(source, (str, os.PathLike)):
        return _of_array(source, fs, leads, unit or "mV", policy, reader)
    given = {"fs": fs, "leads": leads, "unit": unit}
    if ignored := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"{', '.join(ignored)}: a file tells this itself, leave it out")
    return read_one(one_record(os.fspath(source)), reader, policy)


def _of_array(
    samples: npt.ArrayLike,
    fs: float | None,
    leads: Sequence[str] | None,
    unit: Unit,
    policy: QualityPolicy,
    reader: ReaderOptions,
) -> UsableRecord:
    if fs is None:
        raise ValueError("fs is missing: give the sampling rate of the array in Hz, such as fs=500")
    if leads is None:
        raise ValueError("leads is missing: name the rows of the array, such as leads=('I', 'II', 'III', 'aVR', ...)")
    if reader.mat_unit is not None:
        raise ValueError("reader.mat_unit is about MATLAB files: give the unit of an array as unit=")
    try:
        return usable(from_array(samples, fs, leads, unit, pad_short=reader.pad_short), reader, policy)
    except QualityFault as fault:
        raise excluded("the array", fault) from fault


def one_record(source: str) -> str:
    """Path of a recording as `read_usable` takes it.

    Args:
        source: path or URL, with or without its extension.

    Raises:
        ValueError: there is none.
    """
    if (path := find_record(source)) is not None:
        return path
    if Path(source).is_dir():
        raise ValueError(f"{source} is a folder: one record is taken at a time, name it as {source}/RECORD")
    raise ValueError(f"there is no recording {source}: give a WFDB record (its .hea beside its .dat) or a MATLAB file")


def read_one(path: str, reader: ReaderOptions, policy: QualityPolicy) -> UsableRecord:
    """Read it.

    Raises:
        ValueError: it cannot be read, or the policy excludes it.
    """
    try:
        return read_usable(path, reader, policy)
    except QualityFault as fault:
        raise excluded(path, fault) from fault
    except RecordFault as fault:
        raise ValueError(f"{path} cannot be read: {fault}") from fault


def excluded(name: str, fault: QualityFault) -> ValueError:
    """What to say of a record that was read and that the policy excludes."""
    return ValueError(
        f"{name} is excluded by the quality policy: {fault}; --quality.* says what is kept (in Python policy=QualityPolicy())"
    )
