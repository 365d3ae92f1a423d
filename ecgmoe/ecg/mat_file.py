"""Read a MATLAB file that stands alone, without a WFDB header beside it, as ECG-FM's converters write CODE-15 and others.

Variables: `feats` (12, n) with the leads in the order of `LEADS`, `curr_sample_rate` (or `org_sample_rate`) in Hz. The
format has no place for the unit.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import numpy as np

from ecgmoe.ecg.convert import MV_PER_UNIT, to_canonical
from ecgmoe.ecg.mat5 import Array, numeric_variables
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import LEADS, N_LEADS, RecordFault, Signal
from ecgmoe.filesystem import StorageError, filesystem

_MAX_BYTES = 1 << 27
"""Half an hour of twelve leads at 500 Hz as float64 is 87 MB."""
_SIGNAL = "feats"
_RATES = ("curr_sample_rate", "org_sample_rate")


def read_mat(path: str, options: ReaderOptions) -> Signal:
    """Read a MATLAB file of version 5.

    Args:
        path: local path or fsspec URL, with its extension.
        options: the unit, and whether short records are padded.

    Returns:
        int16 (12, 5000), microvolt; see `ecgmoe.ecg.record`.

    Raises:
        RecordFault: the file is missing or torn, lacks a variable, its unit is not given, or it cannot be made canonical.
    """
    name = path.rsplit("/", 1)[-1]
    variables = _variables(path, name)
    signal = variables.get(_SIGNAL)
    if signal is None:
        raise RecordFault(f"{name} has no variable {_SIGNAL!r}, and there is no WFDB header beside it")
    if signal.ndim != 2 or signal.shape[0] != N_LEADS or not np.issubdtype(signal.dtype, np.number):
        raise RecordFault(
            f"{name}: {_SIGNAL!r} is {signal.dtype} {signal.shape}, expected numbers ({N_LEADS} leads, samples)"
        )
    rate = next((variables[key] for key in _RATES if key in variables), None)
    if rate is None or rate.size != 1 or not np.issubdtype(rate.dtype, np.number):
        raise RecordFault(f"{name} does not give the sampling rate in {' or '.join(_RATES)}")
    if options.mat_unit is None:
        raise RecordFault(f"{name} does not tell the unit of its samples: name it with --reader.mat-unit")
    millivolt = signal.T.astype(np.float64) * MV_PER_UNIT[options.mat_unit]
    return to_canonical(millivolt, float(rate.item()), LEADS, pad_short=options.pad_short)


def _variables(path: str, name: str) -> dict[str, Array]:
    try:
        content = _content(path)
    except (ValueError, UnicodeEncodeError) as error:
        raise RecordFault(f"{path[:80]!r} is no path of a file") from error
    except StorageError:
        # Of the storage, and so no record's fault.
        raise
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENETDOWN, errno.ENETUNREACH):
            raise
        raise RecordFault(f"{name} cannot be read: {error.strerror or 'no such file'}") from error
    try:
        return numeric_variables(content, (_SIGNAL, *_RATES), _MAX_BYTES)
    except ValueError as error:
        raise RecordFault(f"{name} is no whole MATLAB file of version 5: {error}") from error


def _content(path: str) -> bytes:
    if "://" in path:
        system, inner = filesystem(path)
        return system.cat_file(inner, end=_MAX_BYTES)
    status = Path(path).stat()
    # Opening a pipe would wait for its writer for ever.
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
        raise OSError(None, f"it is no file of at most {_MAX_BYTES:,} bytes")
    return Path(path).read_bytes()
