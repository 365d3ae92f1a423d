"""From a file to a record that can be used: read, judge, find the beats. prepare and predict both go this way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ecgmoe.ecg.beats import Peaks, detect_r_peaks
from ecgmoe.ecg.mat_file import read_mat
from ecgmoe.ecg.quality import padded_samples
from ecgmoe.ecg.quality_policy import Quality, QualityFault, QualityPolicy, apply_policy
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import Signal
from ecgmoe.ecg.wfdb_file import read_wfdb
from ecgmoe.filesystem import filesystem, is_local

MIN_BEATS = 3


@dataclass(frozen=True, kw_only=True)
class UsableRecord:
    """A record that the policy lets through.

    Attributes:
        signal: int16 (12, 5000), microvolt, masked leads wholly `MISSING`.
        r_peaks: int32 (beats,), samples at 500 Hz.
        quality: measured before leads were masked.
    """

    signal: Signal
    r_peaks: Peaks
    quality: Quality

    @property
    def few_beats(self) -> bool:
        """Fewer than three R peaks: its RR interval rests on one interval or on none."""
        return len(self.r_peaks) < MIN_BEATS


def find_record(source: str) -> str | None:
    """A recording, as `read_record` takes it.

    Args:
        source: path or URL of a WFDB record with or without its extension, or of a MATLAB file.

    Returns:
        The path, of a WFDB record without extension; None where there is no such recording.
    """
    stem, _, extension = source.rpartition(".")
    record = stem if extension in ("hea", "dat", "mat") else source
    if _is_file(f"{record}.hea"):
        return record
    return source if extension == "mat" and _is_file(source) else None


def _is_file(path: str) -> bool:
    if is_local(path):
        return Path(path).is_file()
    system, inner = filesystem(path)
    return bool(system.isfile(inner))


def read_record(path: str, options: ReaderOptions) -> Signal:
    """Read one recording as a canonical record.

    Args:
        path: local path or fsspec URL: a WFDB record without extension, or a MATLAB file with it.
        options: what the file may leave open.

    Raises:
        RecordFault: the file cannot be read as an ECG.
    """
    if not path.endswith(".mat"):
        return read_wfdb(path, pad_short=options.pad_short)
    header = f"{path.removesuffix('.mat')}.hea"
    system, inner = filesystem(header)
    if system.exists(inner):
        return read_wfdb(path.removesuffix(".mat"), pad_short=options.pad_short)
    return read_mat(path, options)


def read_usable(path: str, options: ReaderOptions, policy: QualityPolicy) -> UsableRecord:
    """Read one recording, apply the quality policy and find its R peaks.

    Raises:
        RecordFault: with the reason to exclude the record; a `QualityFault` where it is the policy.
    """
    return usable(read_record(path, options), options, policy)


def usable(signal: Signal, options: ReaderOptions, policy: QualityPolicy) -> UsableRecord:
    """Apply the quality policy to a canonical record that was read with `options`, and find its R peaks.

    Raises:
        QualityFault: with the reason to exclude the record.
    """
    padded = padded_samples(signal) if options.pad_short else 0
    signal, quality = apply_policy(signal, policy, padded)
    record = UsableRecord(signal=signal, r_peaks=detect_r_peaks(signal), quality=quality)
    if record.few_beats and policy.few_beats == "exclude":
        raise QualityFault(f"{len(record.r_peaks)} R peaks were found (at least {MIN_BEATS} are needed)")
    return record
