"""Real recordings of other origins come in right, or are left out for a reason that is true."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import UsableRecord, read_record, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real recordings are not in ../shared/data"),
]


def read_all(
    dataset: str, folder: str, reader: ReaderOptions | None = None, options: IndexOptions | None = None
) -> tuple[dict[str, UsableRecord], dict[str, str]]:
    """Usable records and the reasons of the others, by path."""
    root = DATA / folder
    records, reasons = {}, {}
    for path in build_index(dataset, str(root), options=options).table["path"].to_pylist():  # type: ignore[arg-type]
        try:
            records[path] = read_usable(f"{root}/{path}", reader or ReaderOptions(), QualityPolicy())
        except RecordFault as fault:
            reasons[path] = str(fault)
    return records, reasons


def einthoven_share(records: dict[str, UsableRecord]) -> float:
    deviations = [record.quality.einthoven_uv for record in records.values()]
    return float(np.mean([deviation is not None and deviation <= 5 for deviation in deviations]))


def test_ptbxl_at_500_hz() -> None:
    records, reasons = read_all("ptbxl", "ptbxl")
    assert len(records) + len(reasons) == 1400
    # Electrode faults of up to 11 mV, which the dataset's own page mentions.
    assert len(reasons) == 2
    assert all(reason.startswith("amplitude 1") for reason in reasons.values())
    # The lower limit on amplitude is far from every real ECG.
    assert min(record.quality.amplitude_mv for record in records.values()) > 5 * QualityPolicy().min_amplitude_mv
    assert einthoven_share(records) >= 0.99


def test_ptbxl_at_100_hz_where_the_files_are_there() -> None:
    records, reasons = read_all("ptbxl", "ptbxl", options=IndexOptions(sampling_rate=100))
    assert (len(records), len(reasons)) == (50, 1350)
    assert {reason.split(" ", 1)[1] for reason in reasons.values()} == {"cannot be read: No such file or directory"}


def test_ludb_whose_gains_are_no_gains() -> None:
    records, reasons = read_all("wfdb", "ludb")
    assert (len(records), reasons) == (120, {})
    assert einthoven_share(records) >= 0.99
    amplitudes = [record.quality.amplitude_mv for record in records.values()]
    assert 0.5 < np.median(amplitudes) < 3


def test_cinc2021_matlab_signals_beside_headers() -> None:
    records, reasons = read_all("wfdb", "cinc2021")
    assert len(records) + len(reasons) == 33
    assert all(reason.startswith("amplitude") for reason in reasons.values())
    assert len(reasons) == 1
    flat = {Path(path).name for path, record in records.items() if record.quality.zero_leads}
    assert flat == {"JS20004", "JS20008"}
    assert einthoven_share(records) == 1


def test_code15_matlab_files_without_headers() -> None:
    records, reasons = read_all("wfdb", "code15")
    assert (len(records), len(reasons)) == (0, 10)
    assert all("does not tell the unit of its samples: name it with --reader.mat-unit" in r for r in reasons.values())

    records, reasons = read_all("wfdb", "code15", ReaderOptions(mat_unit="mV"))
    kinds = Counter(reason.split(" ")[0:3][-1] for reason in reasons.values())
    assert len(records) + len(reasons) == 10
    assert kinds["lasts"] == 6, "six exams last 7.3 s"

    records, reasons = read_all("wfdb", "code15", ReaderOptions(mat_unit="mV", pad_short=True))
    assert {reason.split(" ")[0] for reason in reasons.values()} <= {"amplitude"}
    assert len(records) + len(reasons) == 10
    padded = sorted(record.quality.padded_samples for record in records.values())
    assert set(padded) == {0, 5000 - 3668}  # 2934 samples at 400 Hz are 3667.5 at 500 Hz


def test_code15_keeps_its_samples() -> None:
    """Resampled from 400 Hz: where both rates have a sample, it is the same to the filter's ripple."""
    path = DATA / "code15/org/code_15_975093.mat"
    signal = read_record(str(path), ReaderOptions(mat_unit="mV"))
    millivolt = scipy.io.loadmat(path)["feats"][:, :4000]
    common = signal[:, ::5][:, 10:790] / 1000
    original = millivolt[:, ::4][:, 10:790]
    assert np.corrcoef(common[1], original[1])[0, 1] > 0.999
    assert np.ptp(common[1]) == pytest.approx(np.ptp(original[1]), rel=0.02)


def test_ptb_with_fifteen_leads_at_1000_hz() -> None:
    records, reasons = read_all("wfdb", "ptbdb")
    assert (len(records), reasons) == (1, {})
    assert einthoven_share(records) == 1


def test_mitbih_has_no_twelve_leads() -> None:
    records, reasons = read_all("wfdb", "mitbih")
    assert (len(records), len(reasons)) == (0, 4)
    assert all(reason.startswith("lead I is missing: the record has") for reason in reasons.values())
