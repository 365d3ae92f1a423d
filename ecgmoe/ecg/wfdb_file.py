"""Read one WFDB record as a canonical record. Whatever is wrong with it is a `RecordFault` that says what.

The header is looked at before `wfdb` reads anything: the declared size against the file's and against the memory, the
gain (which `wfdb` replaces where it is 0), the unit (which `wfdb` decodes as ASCII, so that a microvolt loses its mu).
Whatever `wfdb` would understand otherwise than this module is refused. Records of the commonest kind are then read by
`plain_wfdb` instead. Format: WFDB header(5),
https://physionet.org/physiotools/wag/header-5.htm.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt
import wfdb

from ecgmoe.ecg.convert import READ_S, checked_sampling_rate, lead_positions, to_canonical
from ecgmoe.ecg.plain_wfdb import PlainRecord, read_plain
from ecgmoe.ecg.record import LEADS, UV_PER_MV, RecordFault, Signal
from ecgmoe.filesystem import filesystem, temporary_folder

MAX_HEADER_BYTES = 1 << 20
_MAX_LINE = 1000
"""header(5) allows 255; the time of `wfdb`'s patterns grows with the square of a damaged line's length."""
_MAX_SIGNALS = 1000
_MAX_VALUES = 1 << 24
"""Samples of all signals that are read at once: 134 MB as int64. Twelve leads of 10.5 s at 20 kHz are 2.5 million."""
_DEFAULT_RATE_HZ = 250.0
# Compressed formats (508, 516, 524) are not here: their size says nothing about the number of samples.
_BYTES_PER_SAMPLE = {
    "8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5, "310": 4 / 3, "311": 4 / 3,
}  # fmt: skip
UNCOMPRESSED = frozenset(_BYTES_PER_SAMPLE)
"""Formats whose files are as large as what they hold."""
_MV_PER_UNIT = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3}
# What `wfdb` reads completely: its patterns stop at other spellings of a number ("5e2", "2E2", "+5") without a word.
_WHOLE = re.compile(r"-?\d{1,18}")
_RATE = re.compile(r"(?P<rate>\d+\.?\d*|\.\d+)(?:/-?\d*\.?\d*)?(?:\(-?\d*\.?\d*\))?")
_FORMAT = re.compile(r"(?P<format>\d{1,9})(?:x(?P<frame>\d{1,9}))?(?::(?P<skew>\d{1,9}))?(?:\+(?P<offset>\d{1,18}))?")
_GAIN = re.compile(r"(?P<gain>-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?:\(-?\d{1,10}\))?(?:/(?P<unit>\S+))?")
_FIELD_ENDS = re.compile(r"[ \t]+")
_LINE_ENDS = re.compile(r"[\n\r\v\f\x1c-\x1e]+")
_BROKEN_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
"""Errors of one file; others (no descriptors left, a lost network) would hit every record and no record's fault."""


@dataclass(frozen=True)
class SignalLine:
    """What a header says of one signal."""

    file_name: str
    sample_format: str
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    unit: str


@dataclass(frozen=True)
class Header:
    """What a header promises; `n_samples` is None where it leaves that to the size of the signal files."""

    sampling_rate_hz: float
    n_samples: int | None
    signals: tuple[SignalLine, ...]

    def file_names(self) -> list[str]:
        """Signal files, which lie beside the header."""
        return sorted({line.file_name for line in self.signals})

    def wanted_samples(self) -> int:
        """So many are read of a longer record."""
        return math.ceil(READ_S * self.sampling_rate_hz)


def read_wfdb(path: str, *, pad_short: bool = False) -> Signal:
    """Read a WFDB record.

    Of a longer record only the beginning is read, and its checksums, which cover the whole, are then not verified.

    Args:
        path: local path or fsspec URL of the record, without extension.
        pad_short: fill a record of less than 10 s with `MISSING` at its end, instead of refusing it.

    Returns:
        int16 (12, 5000), microvolt; see `ecgmoe.ecg.record`.

    Raises:
        RecordFault: the header or a signal file is missing, torn or contradicts the other; a lead is missing; or the
            record cannot be made canonical (`to_canonical`).
    """
    if "\0" in path:
        raise RecordFault(f"{path[:80]!r} is no path of a file")
    try:
        if "://" in path:
            return _read_remote(path, pad_short)
        return _read_local(Path(path), pad_short)
    except UnicodeEncodeError as error:
        raise RecordFault(f"{path[:80]!r} is no path of a file") from error
    except OSError as error:
        if error.errno not in _BROKEN_FILE and not isinstance(error, (FileNotFoundError, shutil.SpecialFileError)):
            raise
        name = printable(Path(error.filename or path).name)
        raise RecordFault(f"{name} cannot be read: {error.strerror or 'no such file, or a pipe'}") from error


def _read_remote(url: str, pad_short: bool) -> Signal:
    """wfdb wants local files: fetch the few kilobytes of one record."""
    system, path = filesystem(url)
    remote_folder, _, name = path.rpartition("/")
    with temporary_folder() as local:
        _fetch(system, f"{path}.hea", local / f"{name}.hea")
        for file_name in parse_header(_header_bytes(local / f"{name}.hea")).file_names():
            _fetch(system, f"{remote_folder}/{file_name}", local / file_name)
        return _read_local(local / name, pad_short)


def _fetch(system: fsspec.AbstractFileSystem, remote: str, local: Path) -> None:
    try:
        system.get_file(remote, str(local))
    except FileNotFoundError as error:
        raise RecordFault(f"{local.name} cannot be read: no such file") from error


def printable(name: str) -> str:
    """A file name for a message: names that are not UTF-8 hold surrogates, which no report could be written with."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _size(path: Path) -> int:
    """Bytes of a regular file. Opening a pipe would wait for its writer for ever."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise RecordFault(f"{printable(path.name)} cannot be read: it is a pipe or a device, no file")
    return status.st_size


def _header_bytes(path: Path) -> bytes:
    if _size(path) > MAX_HEADER_BYTES:
        raise RecordFault(f"{printable(path.name)} is larger than {MAX_HEADER_BYTES:,} bytes: it is no WFDB header")
    with path.open("rb") as file:
        return file.read(MAX_HEADER_BYTES)


def _header_lines(content: bytes) -> list[str]:
    """All lines but comments and blank ones. They are ASCII, but for the mu of a unit."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = [line for line in map(str.strip, _LINE_ENDS.split(text)) if line and not line.startswith("#")]
    for line in lines:
        if len(line) > _MAX_LINE:
            raise RecordFault(f"the header holds a line of {len(line):,} characters: {line[:80]!r}...")
        if not re.sub("[µμ]", "u", line).isascii():
            raise RecordFault(f"the header holds a line that is not ASCII: {line[:80]!r}")
    return lines


def parse_header(content: bytes) -> Header:
    """The facts of a header that are checked before reading.

    Raises:
        RecordFault: it is damaged, or it names a signal file that is not beside it.
    """
    return _parse_lines(_header_lines(content))


def _parse_lines(lines: list[str]) -> Header:
    if not lines:
        raise RecordFault("the header is empty")
    record = _FIELD_ENDS.split(lines[0])
    damaged = f"damaged record line in the header: {lines[0]!r}"
    if "/" in record[0]:
        raise RecordFault("the record consists of several segments, which are not supported")
    if len(record) < 2 or not all(_WHOLE.fullmatch(field) for field in (record[1], *record[3:4])):
        raise RecordFault(damaged)
    rate = _RATE.fullmatch(record[2]) if len(record) > 2 else None
    if len(record) > 2 and rate is None:
        raise RecordFault(f"{damaged}, sampling rate {record[2]!r}")
    n_signals, n_samples = int(record[1]), int(record[3]) if len(record) > 3 else None
    if n_signals != len(lines) - 1:
        raise RecordFault(f"the header promises {n_signals} signals and describes {len(lines) - 1}")
    if not 0 < n_signals <= _MAX_SIGNALS:
        raise RecordFault(f"the header describes {n_signals} signals, expected 1 to {_MAX_SIGNALS}")
    if n_samples is not None and n_samples <= 0:
        raise RecordFault(f"the header promises {n_samples} samples")
    rate_hz = checked_sampling_rate(float(rate["rate"]) if rate else _DEFAULT_RATE_HZ)
    return Header(rate_hz, n_samples, tuple(_parse_signal_line(line) for line in lines[1:]))


def _parse_signal_line(line: str) -> SignalLine:
    fields = _FIELD_ENDS.split(line)
    sample_format = _FORMAT.fullmatch(fields[1]) if len(fields) > 1 else None
    if sample_format is None:
        raise RecordFault(f"damaged signal line in the header: {line!r}")
    name = fields[0]
    if name in {"~", ".", ".."} or "/" in name or "\\" in name or not name.isprintable():
        raise RecordFault(f"the header names the signal file {name!r}, which is not beside it")
    gain = _GAIN.fullmatch(fields[2]) if len(fields) > 2 else None
    if len(fields) > 2 and gain is None:
        raise RecordFault(f"damaged gain {fields[2]!r} in the header: {line!r}")
    value = float(gain["gain"]) if gain else 0.0
    if not (math.isfinite(value) and value > 0):
        raise RecordFault(f"gain {value:g} in the header, the signal is not calibrated: {line!r}")
    frame, skew, offset = (
        int(sample_format[part] or default) for part, default in (("frame", 1), ("skew", 0), ("offset", 0))
    )
    if frame == 0:
        raise RecordFault(f"no samples per frame in the header: {line!r}")
    return SignalLine(name, sample_format["format"], frame, skew, offset, value, (gain and gain["unit"]) or "mV")


def _check_sizes(folder: Path, header: Header) -> None:
    """Every signal file is there, holds what the header promises, and fits into memory as far as it is read."""
    n_frames = header.n_samples
    for file_name in dict.fromkeys(line.file_name for line in header.signals):
        size = _size(folder / file_name)
        lines = [line for line in header.signals if line.file_name == file_name]
        width = _BYTES_PER_SAMPLE.get(lines[0].sample_format)
        if width is None:
            continue
        frame_bytes = sum(line.samples_per_frame for line in lines) * width
        if n_frames is None:  # then wfdb, too, takes it from the first file
            n_frames = math.ceil(size / frame_bytes)
        promised = lines[0].byte_offset + math.floor((header.n_samples or 0) * frame_bytes)
        if size < promised:
            raise RecordFault(f"{file_name} is torn: it has {size:,} bytes, the header promises {promised:,}")
    if header.n_samples is not None:
        n_frames = min(header.n_samples, header.wanted_samples())
    longest = (n_frames or 0) + max(line.skew for line in header.signals)
    values = longest * sum(line.samples_per_frame for line in header.signals)
    if values > _MAX_VALUES:
        raise RecordFault(f"{values:,} samples would have to be read at once, the limit is {_MAX_VALUES:,}")


def _read_local(path: Path, pad_short: bool) -> Signal:
    if "::" in str(path.absolute()):
        raise RecordFault(f"{printable(str(path))} cannot be read: '::' in a path stands for chained file systems")
    lines = _header_lines(_header_bytes(Path(f"{path}.hea")))
    header = _parse_lines(lines)
    _check_sizes(path.parent, header)
    end = header.wanted_samples()
    whole = header.n_samples is None or header.n_samples <= end
    plain = read_plain(lines, path.parent) if whole else None
    record = plain or _wfdb_record(str(path), None if whole else end)
    positions = lead_positions(record.sig_name)
    factors = [
        _mv_per_unit(header.signals[position].unit, lead) for position, lead in zip(positions, LEADS, strict=True)
    ]
    digital = record.d_signal
    if whole and all(line.samples_per_frame == 1 and line.skew == 0 for line in header.signals):
        _verify_checksums(record, digital)
    gains = np.array([header.signals[position].gain for position in positions])
    if len(set(gains)) > 1 and _is_scaled_to_unit_range(digital[:, positions], gains):
        signal_mv = digital[:, positions] / UV_PER_MV
    else:
        with _wfdb_faults(), np.errstate(over="ignore"):  # infinite values are refused later on
            record.dac(inplace=True)
        signal_mv = record.p_signal.take(positions, axis=1)
        if set(factors) != {1.0}:
            signal_mv *= np.array(factors)
    return to_canonical(signal_mv, header.sampling_rate_hz, LEADS, pad_short=pad_short)


@contextmanager
def _wfdb_faults() -> Iterator[None]:
    """wfdb lets any error of its parsing through."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise RecordFault(f"wfdb cannot read the record: {error} ({type(error).__name__})") from error


def _wfdb_record(path: str, end: int | None) -> wfdb.Record:
    with _wfdb_faults():
        record = wfdb.rdrecord(path, sampto=end, physical=False)
    if record.d_signal is None or not all(record.sig_name):
        raise RecordFault("the header does not name every lead")
    return record


def _mv_per_unit(unit: str, lead: str) -> float:
    if unit.lower() not in _MV_PER_UNIT:
        raise RecordFault(f"lead {lead} is in {unit!r}, expected V, mV or uV")
    return _MV_PER_UNIT[unit.lower()]


def _verify_checksums(record: wfdb.Record | PlainRecord, digital: npt.NDArray[np.int64]) -> None:
    """A checksum is the sum of a signal's samples modulo 65536."""
    for name, expected, actual in zip(record.sig_name, record.checksum, digital.sum(axis=0), strict=True):
        if expected is not None and (expected - int(actual)) % 65536:
            raise RecordFault(f"checksum of lead {name} is {int(actual) % 65536}, the header says {expected % 65536}")


def _is_scaled_to_unit_range(digital: npt.NDArray[np.int64], gains: npt.NDArray[np.float64]) -> bool:
    """Whether gains that differ were chosen so that each lead spans exactly 1, as in LUDB 1.0.1: they are no calibration.

    LUDB's own samples are microvolt: I + III = II holds in them exactly, with the gains applied it does not.
    """
    return bool((np.ptp(digital, axis=0) == gains).all())
