"""MATLAB files without a header: what scipy writes is read, and no damage does more than exclude the record."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from ecgmoe.ecg.mat5 import numeric_variables
from ecgmoe.ecg.read import read_record
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import MISSING, RecordFault

MILLIVOLT = ReaderOptions(mat_unit="mV")


def signal(samples: int = 5000) -> np.ndarray:
    wave = np.sin(np.arange(samples) / 20) * np.linspace(0.5, 1.5, 12)[:, None]
    return wave.astype(np.float32)


def write(path: Path, compressed: bool = False, **variables: Any) -> str:
    scipy.io.savemat(path, {"feats": signal(), "curr_sample_rate": 500, **variables}, do_compression=compressed)
    return str(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("unit", "scale"), [("mV", 1000), ("uV", 1), ("V", 1_000_000)])
def test_the_unit_that_is_given_is_used(tmp_path: Path, compressed: bool, unit: Any, scale: int) -> None:
    path = write(tmp_path / "a.mat", compressed, feats=signal() * (1000 / scale))
    record = read_record(path, ReaderOptions(mat_unit=unit))
    assert np.abs(record - np.rint(signal() * 1000)).max() <= 1


@pytest.mark.parametrize("kind", ["<f8", "<f4", "<i2", "<i4", ">f4"])
def test_arrays_of_any_number_type_are_scipys(tmp_path: Path, kind: str) -> None:
    values = (signal() * 1000).astype(kind)
    path = write(tmp_path / "a.mat", feats=values, text="hello", cell=np.array([{}], dtype=object))
    found = numeric_variables(Path(path).read_bytes(), ("feats", "curr_sample_rate"), 1 << 24)
    assert np.array_equal(found["feats"], values)
    assert found["curr_sample_rate"].item() == 500


def test_short_records_are_padded_when_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat", feats=signal(3000))
    with pytest.raises(RecordFault, match=r"lasts 6 s, 10 s are needed"):
        read_record(path, MILLIVOLT)
    padded = read_record(path, ReaderOptions(mat_unit="mV", pad_short=True))
    assert (padded[:, 3000:] == MISSING).all()
    assert (padded[:, :3000] != MISSING).all()


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no signal": ({"feats": "text"}, "'feats' is no plain array of real numbers"),
    "leads last": ({"feats": signal().T}, r"\(5000, 12\), expected numbers \(12 leads, samples\)"),
    "complex": ({"feats": signal() * 1j}, "no plain array of real numbers"),
    "two rates": ({"curr_sample_rate": [400, 500]}, "does not give the sampling rate"),
    "absurd rate": ({"curr_sample_rate": 1e9}, "sampling rate 1e[+]09 Hz is outside"),
    "infinite": ({"feats": np.full((12, 5000), np.inf)}, "infinite values"),
    "volts as millivolts": ({"feats": signal() * 1000}, r"beyond \+-32.767 mV"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_hold_something_else(tmp_path: Path, fault: str) -> None:
    variables, message = FAULTS[fault]
    with pytest.raises(RecordFault, match=message):
        read_record(write(tmp_path / "a.mat", **variables), MILLIVOLT)


def test_files_that_are_no_matlab_files(tmp_path: Path) -> None:
    (tmp_path / "text.mat").write_text("hello")
    (tmp_path / "folder.mat").mkdir()
    os.mkfifo(tmp_path / "pipe.mat")
    (tmp_path / "loop.mat").symlink_to("loop.mat")
    for name in ("text", "folder", "pipe", "loop", "absent"):
        with pytest.raises(RecordFault, match=f"{name}.mat (is no whole MATLAB file|cannot be read)"):
            read_record(str(tmp_path / f"{name}.mat"), MILLIVOLT)
    for path in ("a\0.mat", "a\udcff.mat"):
        with pytest.raises(RecordFault):
            read_record(path, MILLIVOLT)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_byte_is_a_fault_or_harmless(tmp_path: Path, compressed: bool) -> None:
    """scipy's own reader ends the process at some of these."""
    scipy.io.savemat(tmp_path / "a.mat", {"feats": signal(40), "curr_sample_rate": 500}, do_compression=compressed)
    content = (tmp_path / "a.mat").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(1500):
        damaged = bytearray(content)
        damaged[int(random.integers(len(content)))] = int(random.integers(256))
        try:
            numeric_variables(bytes(damaged), ("feats", "curr_sample_rate"), 1 << 20)
        except ValueError:
            continue
    for end in range(0, len(content) - 1, 7):
        with pytest.raises(RecordFault):
            (tmp_path / "torn.mat").write_bytes(content[:end])
            read_record(str(tmp_path / "torn.mat"), MILLIVOLT)


def test_a_small_file_cannot_fill_the_memory(tmp_path: Path) -> None:
    header = Path(write(tmp_path / "a.mat")).read_bytes()[:128]
    # A matrix whose 50 MB follow a whole tag: 50 kB in the file.
    matrix = (14).to_bytes(4, "little") + (50_000_000).to_bytes(4, "little") + b"\0" * 50_000_000
    bomb = zlib.compress(matrix)
    content = header + (15).to_bytes(4, "little") + len(bomb).to_bytes(4, "little") + bomb
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"torn|more than"):
        numeric_variables(content, ("feats",), 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
