"""Read one WFDB record as a canonical record. Whatever is wrong with it is a `RecordFault` that says what.

The header is looked at before `wfdb` reads anything: the declared size against the file's, the gain (which `wfdb`
replaces where it is 0), the unit (which `wfdb` decodes as ASCII, so that a microvolt loses its mu). Format: WFDB
header(5), https://physionet.org/physiotools/wag/header-5.htm.
"""

from __future__ import annotations

import errno
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt
import wfdb

from ecgmoe.ecg.convert import READ_S, checked_sampling_rate, lead_positions, to_canonical
from ecgmoe.ecg.record import LEADS, UV_PER_MV, RecordFault, Signal

_MAX_HEADER_BYTES = 1 << 20
_DEFAULT_RATE_HZ = 250.0
# Compressed formats (508, 516, 524) are not here: their size says nothing about the number of samples.
_BYTES_PER_SAMPLE = {
    "8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5, "310": 4 / 3, "311": 4 / 3,
}  # fmt: skip
_MV_PER_UNIT = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3}
_FORMAT = re.compile(r"(?P<format>\d+)(?:x(?P<frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?$")
_GAIN = re.compile(r"(?P<gain>[-+.\deE]+)(?:\([-+\d]+\))?(?:/(?P<unit>\S+))?$")
_BROKEN_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG}
"""Errors of one file; others (no descriptors left, a lost network) would hit every record and no record's fault."""


@dataclass(frozen=True)
class _SignalLine:
    file_name: str
    sample_format: str
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    unit: str


@dataclass(frozen=True)
class _Header:
    sampling_rate_hz: float
    n_samples: int | None
    signals: tuple[_SignalLine, ...]

    def file_names(self) -> list[str]:
        return sorted({line.file_name for line in self.signals})


def read_wfdb(path: str) -> Signal:
    """Read a WFDB record.

    Of a longer record only the beginning is read, and its checksums, which cover the whole, are then not verified.

    Args:
        path: local path or fsspec URL of the record, without extension.

    Returns:
        int16 (12, 5000), microvolt; see `ecgmoe.ecg.record`.

    Raises:
        RecordFault: the header or a signal file is missing, torn or contradicts the other; a lead is missing; or the
            record cannot be made canonical (`to_canonical`).
    """
    try:
        if "://" in path:
            return _read_remote(path)
        header = _parse_header(_header_bytes(Path(f"{path}.hea")))
        return _read_local(Path(path), header)
    except OSError as error:
        if error.errno not in _BROKEN_FILE and not isinstance(error, FileNotFoundError):
            raise
        name = Path(error.filename or path).name
        raise RecordFault(f"{name} cannot be read: {error.strerror or 'no such file'}") from error


def _read_remote(url: str) -> Signal:
    """wfdb wants local files: fetch the few kilobytes of one record."""
    filesystem, path = fsspec.core.url_to_fs(url)
    name = path.rsplit("/", 1)[-1]
    with tempfile.TemporaryDirectory(prefix="ecg-") as folder:
        local = Path(folder) / name
        _fetch(filesystem, f"{path}.hea", local.with_name(f"{name}.hea"))
        header = _parse_header(_header_bytes(local.with_name(f"{name}.hea")))
        for file_name in header.file_names():
            _fetch(filesystem, f"{path.rsplit('/', 1)[0]}/{file_name}", local.with_name(file_name))
        return _read_local(local, header)


def _fetch(filesystem: fsspec.AbstractFileSystem, remote: str, local: Path) -> None:
    try:
        filesystem.get_file(remote, str(local))
    except FileNotFoundError as error:
        raise RecordFault(f"{local.name} cannot be read: no such file") from error


def _header_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_HEADER_BYTES + 1)
    if len(content) > _MAX_HEADER_BYTES:
        raise RecordFault(f"{path.name} is larger than {_MAX_HEADER_BYTES:,} bytes: it is no WFDB header")
    return content


def _parse_header(content: bytes) -> _Header:
    """The facts of a header that are checked before reading."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or len(lines[0]) < 2:
        raise RecordFault("the header is empty" if not lines else f"damaged record line in the header: {lines[0][0]!r}")
    record, signals = lines[0], lines[1:]
    if "/" in record[0]:
        raise RecordFault("the record consists of several segments, which are not supported")
    try:
        n_signals, rate = (
            int(record[1]),
            float(re.split(r"[/(]", record[2])[0]) if len(record) > 2 else _DEFAULT_RATE_HZ,
        )
        n_samples = int(record[3]) if len(record) > 3 else None
    except ValueError as error:
        raise RecordFault(f"damaged record line in the header: {' '.join(record)!r}") from error
    if n_signals != len(signals):
        raise RecordFault(f"the header promises {n_signals} signals and describes {len(signals)}")
    if n_samples is not None and n_samples <= 0:
        raise RecordFault(f"the header promises {n_samples} samples")
    return _Header(checked_sampling_rate(rate), n_samples, tuple(_parse_signal_line(fields) for fields in signals))


def _parse_signal_line(fields: list[str]) -> _SignalLine:
    line = " ".join(fields)
    sample_format = _FORMAT.match(fields[1]) if len(fields) > 1 else None
    gain = _GAIN.match(fields[2]) if len(fields) > 2 else None
    if sample_format is None:
        raise RecordFault(f"damaged signal line in the header: {line!r}")
    if fields[0] in {"~", ".", ".."} or "/" in fields[0] or "\\" in fields[0]:
        raise RecordFault(f"the header names the signal file {fields[0]!r}, which is not beside it")
    try:
        value = float(gain["gain"]) if gain else 0.0
    except ValueError as error:
        raise RecordFault(f"damaged gain in the header: {line!r}") from error
    if not (math.isfinite(value) and value > 0):
        raise RecordFault(f"gain {value:g} in the header, the signal is not calibrated: {line!r}")
    frame, skew, offset = (
        int(sample_format[name] or default) for name, default in (("frame", 1), ("skew", 0), ("offset", 0))
    )
    unit = (gain["unit"] if gain else None) or "mV"
    return _SignalLine(fields[0], sample_format["format"], frame, skew, offset, value, unit)


def _check_sizes(folder: Path, header: _Header) -> None:
    """Every signal file is there and holds what the header promises."""
    for file_name in header.file_names():
        size = (folder / file_name).stat().st_size
        lines = [line for line in header.signals if line.file_name == file_name]
        width = _BYTES_PER_SAMPLE.get(lines[0].sample_format)
        if header.n_samples is None or width is None:
            continue
        promised = lines[0].byte_offset + int(header.n_samples * sum(line.samples_per_frame for line in lines) * width)
        if size < promised:
            raise RecordFault(f"{file_name} is torn: it has {size:,} bytes, the header promises {promised:,}")


def _read_local(path: Path, header: _Header) -> Signal:
    _check_sizes(path.parent, header)
    whole = header.n_samples is None or header.n_samples <= READ_S * header.sampling_rate_hz
    end = None if whole else math.ceil(READ_S * header.sampling_rate_hz)
    record = _wfdb_record(str(path), end)
    positions = lead_positions(record.sig_name)
    factors = [
        _mv_per_unit(header.signals[position].unit, lead) for position, lead in zip(positions, LEADS, strict=True)
    ]
    digital = record.d_signal
    if whole and all(line.samples_per_frame == 1 and line.skew == 0 for line in header.signals):
        _verify_checksums(record, digital)
    gains = np.array([header.signals[position].gain for position in positions])
    if _is_scaled_to_unit_range(digital[:, positions], gains):
        signal_mv = digital[:, positions] / UV_PER_MV
    else:
        record.dac(inplace=True)
        signal_mv = record.p_signal[:, positions] * np.array(factors)
    return to_canonical(signal_mv, header.sampling_rate_hz, LEADS)


def _wfdb_record(path: str, end: int | None) -> wfdb.Record:
    try:
        record = wfdb.rdrecord(path, sampto=end, physical=False)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # wfdb lets any error of its parsing through
        raise RecordFault(f"wfdb cannot read the record: {error} ({type(error).__name__})") from error
    if record.d_signal is None or not all(record.sig_name):
        raise RecordFault("the header does not name every lead")
    return record


def _mv_per_unit(unit: str, lead: str) -> float:
    if unit.lower() not in _MV_PER_UNIT:
        raise RecordFault(f"lead {lead} is in {unit!r}, expected V, mV or uV")
    return _MV_PER_UNIT[unit.lower()]


def _verify_checksums(record: wfdb.Record, digital: npt.NDArray[np.int64]) -> None:
    """A checksum is the sum of a signal's samples modulo 65536."""
    for name, expected, actual in zip(record.sig_name, record.checksum, digital.sum(axis=0), strict=True):
        if expected is not None and (expected - int(actual)) % 65536:
            raise RecordFault(f"checksum of lead {name} is {int(actual) % 65536}, the header says {expected % 65536}")


def _is_scaled_to_unit_range(digital: npt.NDArray[np.int64], gains: npt.NDArray[np.float64]) -> bool:
    """Whether the gains were chosen so that each lead spans exactly 1, as in LUDB 1.0.1: then they are no calibration.

    LUDB's own samples are microvolt: I + III = II holds in them exactly, with the gains applied it does not.
    """
    return bool(len(set(gains)) > 1 and (np.ptp(digital, axis=0) == gains).all())
