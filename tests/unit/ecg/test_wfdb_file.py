"""Reading WFDB records: the quirks of real datasets, and every way in which a file can be broken."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import wfdb

from ecgmoe.ecg import wfdb_file
from ecgmoe.ecg.convert import to_canonical
from ecgmoe.ecg.quality import measure
from ecgmoe.ecg.record import LEADS, MISSING, RecordFault
from ecgmoe.ecg.wfdb_file import read_wfdb

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
MIMIC_ORDER = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / folder).is_dir(), reason=f"{folder} is not in ../shared/data")


def samples(n: int = 5000) -> npt.NDArray[np.int16]:
    """(n, 12) digital samples, another phase in each lead."""
    return (400 * np.sin(np.arange(n)[:, None] / 20 + np.arange(12))).astype(np.int16)


def write(
    folder: Path,
    digital: npt.NDArray[np.int16] | None = None,
    *,
    names: tuple[str, ...] = MIMIC_ORDER,
    gain: str = "200.0(0)/mV",
    sample_format: str = "16",
    record_line: str | None = None,
) -> str:
    """A record as MIMIC-IV-ECG has it; returns its path without extension."""
    digital = samples() if digital is None else digital
    (folder / "r.dat").write_bytes(digital.astype("<i2").tobytes())
    sums = digital.astype(np.int64).sum(axis=0) % 65536
    lines = [record_line or f"r {len(names)} 500 {len(digital)} 12:04:00 22/09/2182"]
    lines += [f"r.dat {sample_format} {gain} 16 0 {digital[0, i]} {sums[i]} 0 {name}" for i, name in enumerate(names)]
    (folder / "r.hea").write_text("\n".join([*lines, "# <subject_id>: 12177274", ""]), encoding="utf-8")
    return str(folder / "r")


def edit(path: str, old: str, new: str) -> None:
    header = Path(f"{path}.hea")
    text = header.read_text(encoding="utf-8")
    assert old in text
    header.write_text(text.replace(old, new), encoding="utf-8")


def test_reads_by_lead_name_in_microvolt(tmp_path: Path) -> None:
    signal = read_wfdb(write(tmp_path))
    order = [MIMIC_ORDER.index(lead) for lead in LEADS]
    assert np.array_equal(signal, samples()[:, order].T * 5)  # 200 per mV: one step is 5 uV


@pytest.mark.parametrize(
    ("unit", "microvolt_per_step"),
    [("mV", 5), ("mv", 5), ("MV", 5), ("", 5), ("/uV", 0.005), ("/µV", 0.005), ("/μV", 0.005), ("/V", 5000)],
)
def test_units(tmp_path: Path, unit: str, microvolt_per_step: float) -> None:
    gain = "200" if not unit else f"200/{unit.lstrip('/')}"
    digital = np.clip(samples(), -6, 6).astype(np.int16) if unit == "/V" else samples()
    expected = np.rint(digital[0, 0] * microvolt_per_step)
    assert read_wfdb(write(tmp_path, digital, names=LEADS, gain=gain))[0, 0] == expected


def test_baseline_is_subtracted_and_invalid_samples_are_missing(tmp_path: Path) -> None:
    digital = samples()
    digital[40:50, 2] = -32768
    signal = read_wfdb(write(tmp_path, digital, names=LEADS, gain="200.0(100)/mV"))
    assert signal[0, 0] == (digital[0, 0] - 100) * 5
    assert np.flatnonzero(signal[2] == MISSING).tolist() == list(range(40, 50))


def test_of_a_long_record_only_the_beginning_is_read(tmp_path: Path) -> None:
    signal = read_wfdb(write(tmp_path, samples(50_000), names=LEADS))
    assert np.array_equal(signal, samples().T * 5)


def test_a_header_without_a_number_of_samples(tmp_path: Path) -> None:
    path = write(tmp_path, names=LEADS, record_line="r 12 500")
    assert np.array_equal(read_wfdb(path), samples().T * 5)


def test_gains_that_scale_to_unit_range_are_no_calibration(tmp_path: Path) -> None:
    digital = (samples() * np.arange(1, 13)).astype(np.int16)
    path = write(tmp_path, digital, names=LEADS)
    for i, lead in enumerate(LEADS):
        rest = f"/mV 16 0 {digital[0, i]} {digital[:, i].sum() % 65536} 0 {lead}\n"
        edit(path, f"200.0(0){rest}", f"{np.ptp(digital[:, i])}(3){rest}")
    assert np.array_equal(read_wfdb(path), digital.T)


def test_remote_records(tmp_path: Path) -> None:
    local = write(tmp_path)
    memory = fsspec.filesystem("memory")
    for extension in ("hea", "dat"):
        memory.pipe_file(f"/ecg/r.{extension}", Path(f"{local}.{extension}").read_bytes())
    assert np.array_equal(read_wfdb("memory://ecg/r"), read_wfdb(local))
    memory.rm_file("/ecg/r.dat")
    with pytest.raises(RecordFault, match=r"r\.dat cannot be read: no such file"):
        read_wfdb("memory://ecg/r")
    with pytest.raises(RecordFault, match=r"s\.hea cannot be read: no such file"):
        read_wfdb("memory://ecg/s")


def _truncate(path: str) -> None:
    file = Path(f"{path}.dat")
    file.write_bytes(file.read_bytes()[:70_001])


BROKEN: dict[str, tuple[Callable[[str], Any], str]] = {
    "no header": (lambda p: Path(f"{p}.hea").unlink(), r"r\.hea cannot be read: No such file"),
    "no signal file": (lambda p: Path(f"{p}.dat").unlink(), r"r\.dat cannot be read: No such file"),
    "torn signal file": (_truncate, r"r\.dat is torn: it has 70,001 bytes, the header promises 120,000"),
    "empty signal file": (lambda p: Path(f"{p}.dat").write_bytes(b""), r"r\.dat is torn: it has 0 bytes"),
    "empty header": (lambda p: Path(f"{p}.hea").write_text(""), "the header is empty"),
    "header of comments": (lambda p: Path(f"{p}.hea").write_text("# nothing\n"), "the header is empty"),
    "header of noise": (lambda p: Path(f"{p}.hea").write_bytes(bytes(range(1, 256)) * 4), "header"),
    "torn header": (lambda p: Path(f"{p}.hea").write_text(Path(f"{p}.hea").read_text()[:300]), "header|lead"),
    "huge header": (lambda p: Path(f"{p}.hea").write_bytes(b"#" * (1 << 20) + b"##"), "larger than"),
    "zero samples": (lambda p: edit(p, " 500 5000 ", " 500 0 "), "promises 0 samples"),
    "absurd samples": (lambda p: edit(p, " 500 5000 ", " 500 900000000000 "), "is torn"),
    "zero rate": (lambda p: edit(p, " 500 5000 ", " 0 5000 "), "sampling rate 0 Hz"),
    "absurd rate": (lambda p: edit(p, " 500 5000 ", " 1e12 5000 "), "sampling rate"),
    "no number of signals": (lambda p: edit(p, "r 12 ", "r x "), "damaged record line"),
    "a signal less": (lambda p: edit(p, "r 12 ", "r 13 "), "promises 13 signals and describes 12"),
    "several segments": (lambda p: edit(p, "r 12 ", "r/3 12 "), "several segments"),
    "zero gain": (lambda p: edit(p, " 200.0(0)/mV", " 0/mV"), "gain 0 in the header"),
    "negative gain": (lambda p: edit(p, " 200.0(0)/mV", " -200/mV"), "gain -200"),
    "no unit of voltage": (lambda p: edit(p, "/mV", "/mmHg"), "lead I is in 'mmHg'"),
    "unknown format": (lambda p: edit(p, " 16 200", " 17 200"), "wfdb cannot read the record"),
    "another folder": (lambda p: edit(p, "r.dat 16", "../r.dat 16"), "not beside it"),
    "a missing lead": (lambda p: edit(p, " aVF\n", " aVX\n"), "lead aVF is missing"),
    "a duplicate lead": (lambda p: edit(p, " aVF\n", " aVL\n"), "lead aVL|lead aVF"),
    "a lead without a name": (lambda p: edit(p, " 0 I\n", " 0\n"), "name every lead|lead I is missing"),
    "short record": (lambda p: edit(p, " 500 5000 ", " 500 4000 "), "checksum|lasts 8 s"),
    "wrong checksum": (
        lambda p: edit(p, f" {samples()[:, 0].sum() % 65536} 0 I\n", " 77 0 I\n"),
        "checksum of lead I is",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_records_are_faults_that_say_why(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path)
    damage, message = BROKEN[kind]
    damage(path)
    with pytest.raises(RecordFault, match=message):
        read_wfdb(path)


def test_a_changed_sample_fails_the_checksum(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = bytearray(Path(f"{path}.dat").read_bytes())
    content[24_000] ^= 1
    Path(f"{path}.dat").write_bytes(content)
    with pytest.raises(RecordFault, match="checksum of lead I is"):
        read_wfdb(path)


def test_faults_of_the_machine_are_not_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)

    def no_descriptor(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", no_descriptor)
    with pytest.raises(OSError, match="Too many"):
        read_wfdb(path)


@pytest.mark.real_data
@needs("ptbxl")
def test_ptbxl_in_both_rates() -> None:
    high = read_wfdb(str(DATA / "ptbxl/records500/00000/00001_hr"))
    record = wfdb.rdrecord(str(DATA / "ptbxl/records500/00000/00001_hr"))
    assert np.array_equal(high, np.rint(record.p_signal.T * 1000))
    low = read_wfdb(str(DATA / "ptbxl/records100/00000/00001_lr"))
    # 100 Hz lacks what lies above 50 Hz, so that the records agree only in their slow part.
    assert np.corrcoef(high[1], low[1])[0, 1] > 0.95


@pytest.mark.real_data
@needs("ptbxl")
@needs("ludb")
def test_records_that_are_read_without_wfdb_are_what_wfdb_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = ("ptbxl/records500/00000", "ptbxl/records100/00000", "ludb/data")
    paths = [str(path.with_suffix("")) for folder in folders for path in sorted((DATA / folder).glob("*.hea"))[:40]]
    assert len(paths) == 120
    with monkeypatch.context() as patched:
        patched.setattr(wfdb, "rdrecord", None)
        signals = [read_wfdb(path) for path in paths]
    monkeypatch.setattr(wfdb_file, "read_plain", lambda *_: None)
    assert all(np.array_equal(read_wfdb(path), signal) for path, signal in zip(paths, signals, strict=True))


@pytest.mark.real_data
@needs("ludb")
def test_ludb_is_in_microvolt_and_obeys_einthovens_law() -> None:
    for header in sorted((DATA / "ludb/data").glob("1*.hea")):
        signal = read_wfdb(str(header.with_suffix("")))
        assert measure(signal).einthoven_uv == 0
    assert 500 < np.ptp(signal[1]) < 5000


@pytest.mark.real_data
@needs("cinc2021")
def test_cinc2021_matlab_files() -> None:
    headers = sorted((DATA / "cinc2021").rglob("*.hea"))
    assert len(headers) == 33
    qualities = {header.stem: measure(read_wfdb(str(header.with_suffix("")))) for header in headers}
    assert {name for name, quality in qualities.items() if quality.flat.any()} == {"JS20004", "JS20008"}
    assert np.flatnonzero(qualities["JS20004"].zero).tolist() == [7, 9, 11]  # V2, V4, V6
    assert all((quality.einthoven_uv or 0) <= 2 for quality in qualities.values())


@pytest.mark.real_data
@needs("ptbdb")
def test_fifteen_leads_at_1000_hz() -> None:
    path = str(DATA / "ptbdb/patient001/s0010_re")
    record = wfdb.rdrecord(path, sampto=12_000)
    assert np.abs(read_wfdb(path) - to_canonical(record.p_signal, 1000, record.sig_name)).max() <= 1


@pytest.mark.real_data
@needs("mitbih")
def test_two_leads_are_not_twelve() -> None:
    with pytest.raises(RecordFault, match="lead I is missing: the record has MLII, V5"):
        read_wfdb(str(DATA / "mitbih/100"))
