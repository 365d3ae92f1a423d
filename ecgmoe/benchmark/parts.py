"""Reading a record and finding its R peaks, each beside the library that others call for it, in one thread of this process.

Reading: ours checks the header, the sizes and the checksums, puts the leads in order and gives int16 microvolt at 500 Hz; bare
is `wfdb.rdrecord` alone, once in millivolt as it comes and once in the file's own numbers, which is less work.
R peaks: ours looks at all twelve leads; bare is what neurokit2 wants for lead II, `ecg_clean` and `ecg_findpeaks`. Which beats
each finds is another question (tests/unit/ecg/test_beats.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import wfdb

from ecgmoe.benchmark.paired import interleaved, ratio
from ecgmoe.config_tools import require
from ecgmoe.datasets.index import build_index
from ecgmoe.ecg.beats import LEAD_II, detect_r_peaks
from ecgmoe.ecg.read import read_record
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import MISSING, SAMPLING_RATE_HZ, Signal
from ecgmoe.pipeline.config import DatasetName

Floats = npt.NDArray[np.float64]


def parts_benchmark(dataset: DatasetName, root: str, *, records: int = 2000, pairs: int = 10) -> dict[str, Any]:
    """Alternate each part with its bare reference over the same records.

    Args:
        dataset: which reader.
        root: the dataset.
        records: at most so many of it, evenly spread; those that one of the ways refuses are left out of all.
        pairs: rounds that count; the first one, which fills the page cache, does not.

    Returns:
        By part, "read" and "r_peaks": records, records per second of ours, and by bare reference its own and how many times
        as fast ours is.

    Raises:
        ValueError: there is no WFDB record that all can read.
    """
    paths = _some([f"{root}/{path}" for path in build_index(dataset, root).table["path"].to_pylist()], records)
    # A MATLAB file without a header is nothing that wfdb reads.
    readable = [
        path for path in paths if not path.endswith(".mat") and _works(_read_ours, path) and _works(_read_mv, path)
    ]
    require(bool(readable), f"{root} has no WFDB record that can be read: choose another --root")
    found = {
        "read": _compare(
            readable, {"ours": _read_ours, "wfdb_millivolt": _read_mv, "wfdb_digital": _read_digital}, pairs
        )
    }
    signals = [signal for signal in map(_read_ours, readable) if _works(_peaks_bare, _millivolt(signal))]
    require(bool(signals), f"neurokit2 finds no R peak in any record of {root}: choose another --root")
    given = [(signal, _millivolt(signal)) for signal in signals]
    ways: dict[str, Callable[[Any], Any]] = {
        "ours": lambda each: detect_r_peaks(each[0]),
        "neurokit2_lead_ii": lambda each: _peaks_bare(each[1]),
    }
    found["r_peaks"] = _compare(given, ways, pairs)
    return {"dataset": dataset, "asked": len(paths), "pairs": pairs, "parts": found}


def _some(paths: list[str], most: int) -> list[str]:
    places = np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int)
    return [paths[place] for place in places]


def _works(function: Callable[[Any], Any], given: Any) -> bool:
    try:
        return function(given) is not None
    except Exception:  # the libraries raise whatever comes of a damaged record
        return False


def _compare(given: Sequence[Any], ways: dict[str, Callable[[Any], Any]], pairs: int) -> dict[str, Any]:
    rates = interleaved([partial(_rate, way, given) for way in ways.values()], pairs)
    ours, *others = rates
    names = list(ways)[1:]
    return {
        "records": len(given),
        "records_per_second": statistics.median(ours),
        "bare": {
            name: {"records_per_second": statistics.median(other), "times_as_fast": asdict(ratio(ours, other))}
            for name, other in zip(names, others, strict=True)
        },
    }


def _rate(way: Callable[[Any], Any], given: Sequence[Any]) -> float:
    """Records per second."""
    started = time.perf_counter()
    for each in given:
        way(each)
    return len(given) / (time.perf_counter() - started)


def _read_ours(path: str) -> Signal:
    return read_record(path, ReaderOptions())


def _read_mv(path: str) -> Floats:
    """(samples, leads), the unit of the file."""
    return wfdb.rdrecord(path).p_signal


def _read_digital(path: str) -> npt.NDArray[np.int64]:
    """(samples, leads), the numbers in the file."""
    return wfdb.rdrecord(path, physical=False).d_signal


def _millivolt(signal: Signal) -> Floats:
    """Lead II (5000,), missing samples as 0."""
    lead = signal[LEAD_II]
    return np.where(lead == MISSING, 0, lead) / 1000


def _peaks_bare(lead: Floats) -> npt.NDArray[np.int64] | None:
    """Positions in samples; None where there is none."""
    import neurokit2 as nk  # takes a second

    cleaned = nk.ecg_clean(lead, sampling_rate=SAMPLING_RATE_HZ)
    found = np.asarray(nk.ecg_findpeaks(cleaned, sampling_rate=SAMPLING_RATE_HZ)["ECG_R_Peaks"])
    return found if len(found) else None
