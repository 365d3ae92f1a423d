"""An array becomes the canonical record that a file of the same samples becomes, or is refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from ecgmoe.ecg.array import from_array
from ecgmoe.ecg.convert import MV_PER_UNIT
from ecgmoe.ecg.read import read_record
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import LEADS, MISSING

SHUFFLED = ("V6", "II", "V1", "aVF", "I", "V7", "aVR", "V2", "III", "V5", "aVL", "V4", "V3")
"""In another order, and with a lead that no canonical record has."""


@pytest.mark.parametrize("fs", [100, 257, 360.5, 500, 1000])
@pytest.mark.parametrize("unit", ["mV", "uV"])
def test_it_is_the_record_of_a_file_with_these_samples(tmp_path: Path, fs: float, unit: Any) -> None:
    generator = np.random.default_rng(0)
    # The file holds every 2.5 microvolt, so that samples lie between those of the canonical record.
    digital = generator.integers(-400, 400, (round(11 * fs), len(SHUFFLED)))
    wfdb.wrsamp(
        "a",
        fs=fs,
        units=[unit] * len(SHUFFLED),
        sig_name=list(SHUFFLED),
        d_signal=digital,
        fmt=["16"] * len(SHUFFLED),
        adc_gain=[400 * MV_PER_UNIT[unit]] * len(SHUFFLED),
        baseline=[0] * len(SHUFFLED),
        write_dir=str(tmp_path),
    )
    record = wfdb.rdrecord(str(tmp_path / "a"))
    made = from_array(record.p_signal.T, record.fs, record.sig_name, unit)
    assert np.array_equal(made, read_record(str(tmp_path / "a"), ReaderOptions()))
    assert len(np.unique(made)) > 500


def test_units_numbers_and_missing_samples() -> None:
    microvolt = np.random.default_rng(1).integers(-900, 900, (12, 5000)).astype(np.int16)
    expected = from_array(microvolt, 500, LEADS, "uV")
    assert np.array_equal(expected, microvolt)
    assert np.array_equal(from_array((microvolt / 1000).tolist(), 500, LEADS), microvolt)
    assert np.array_equal(from_array(microvolt / 1e6, 500, LEADS, "V"), microvolt)
    holes = microvolt / 1000
    holes[3, 100:200] = np.nan
    found = from_array(holes.astype(np.float32), 500, LEADS)
    assert (found[3, 100:200] == MISSING).all()
    assert (found == MISSING).sum() == 100


def test_a_short_array_is_padded_when_asked() -> None:
    short = np.ones((12, 2500))
    padded = from_array(short, 500, LEADS, pad_short=True)
    assert (padded[:, :2500] == 1000).all()
    assert (padded[:, 2500:] == MISSING).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"samples": np.zeros((5000, 12))}, r"has shape \(5000, 12\), expected \(12 leads, samples\): pass array\.T"),
        ({"samples": np.zeros((8, 5000))}, r"shape \(8, 5000\), expected \(12 leads, samples\): one row for each name"),
        ({"samples": np.zeros(5000)}, r"shape \(5000,\), expected"),
        ({"samples": np.zeros((12, 2, 5000))}, r"shape \(12, 2, 5000\), expected"),
        ({"samples": np.full((12, 5000), "a")}, "holds <U1, expected real numbers"),
        ({"samples": np.zeros((12, 5000), dtype=complex)}, "holds complex128"),
        ({"samples": np.full((12, 5000), np.inf)}, "infinite"),
        ({"samples": np.zeros((12, 4999))}, "lasts 9.998 s, 10 s are needed"),
        ({"samples": np.zeros((12, 0))}, "lasts 0 s"),
        ({"samples": np.full((12, 5000), 400)}, "reaches 400.000 mV"),
        ({"fs": 5.0}, "sampling rate 5 Hz is outside"),
        ({"fs": float("nan")}, "sampling rate nan Hz"),
        ({"leads": [*LEADS[:11], "V9"]}, "lead V6 is missing: the record has I, II"),
        ({"leads": [*LEADS[:11], "I"]}, "lead I is there 2 times"),
        ({"leads": "I,II,III"}, "leads is the text 'I,II,III': give a sequence of names"),
        ({"unit": "nV"}, "unknown unit 'nV': choose one of V, mV, uV"),
    ],
)
def test_what_cannot_be_used_has_a_reason(change: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {"samples": np.zeros((12, 5000)), "fs": 500, "leads": LEADS, **change}
    with pytest.raises(ValueError, match=reason):
        from_array(**given)
