"""One recording that a user names: found by any of its names, and read, or refused with what to do."""

from __future__ import annotations

from pathlib import Path

from ecgmoe.ecg.quality_policy import QualityFault, QualityPolicy
from ecgmoe.ecg.read import UsableRecord, find_record, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault


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
