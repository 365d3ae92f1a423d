"""Whatever stands in a header, it is read as it is meant or refused; nothing else happens."""

from __future__ import annotations

import functools
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ecgmoe.ecg import wfdb_file
from ecgmoe.ecg.plain_wfdb import read_plain
from ecgmoe.ecg.record import LEADS, N_SAMPLES, RecordFault, Signal
from ecgmoe.ecg.wfdb_file import parse_header, read_wfdb

pytestmark = [
    pytest.mark.timeout(60),
    # A drawn gain of 1e-300 makes infinite millivolts, which are refused.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
quickly = functools.partial(settings, deadline=None, derandomize=True)

DIGITAL = (100 * np.sin(np.arange(N_SAMPLES)[:, None] / 20 + np.arange(12))).astype("<i2")
SUMS = DIGITAL.astype(int).sum(axis=0) % 65536
VALID = "\n".join(
    ["r 12 500 5000 12:04:00 22/09/2182"]
    + [f"r.dat 16 200.0(0)/mV 16 0 {DIGITAL[0, i]} {SUMS[i]} 0 {lead}" for i, lead in enumerate(LEADS)]
    + ["# <subject_id>: 12177274", ""]
).encode()

# What a parser reads as a number, or almost does.
EXTREMES = st.sampled_from([
    "0", "-0", "-1", "1", "+1", "1e3", "1E3", "1e999", "-1e999", "nan", "inf", "-inf", "1_000", "0x10", "٣", "9999999999",
    "1000000000", "99999999999999999999", "0.1", "1.5", "1e-320", "--1", "1.", ".5", ".", "-", "e", "12.5.1", "2147483648",
    "-2147483649", "9223372036854775808", "16x1000000000", "16:1000000000", "16+1000000000", "16x999999999", "16:999999999",
    "16+999999999", "16x0", "16:", "200(1)/mV", "200()/mV", "(0)/mV", "/mV", "200/", "200(-)/uV", "r/2", "~", "/", "\\",
    "#", "../x", "9" * 400, "9" * 5000, "a" * 2000,
])  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record whose header the tests overwrite."""
    path = tmp_path_factory.mktemp("header") / "r"
    path.with_suffix(".dat").write_bytes(DIGITAL.tobytes())
    return path


def read_or_fault(record: Path, header: bytes) -> None:
    """Reads, or says in a RecordFault that can be stored as text why not; any other error fails the test. What is read without
    wfdb is what wfdb reads."""
    record.with_suffix(".hea").write_bytes(header)
    signal = signal_or_none(record)
    with patch.object(wfdb_file, "read_plain", lambda *_: None):
        by_wfdb = signal_or_none(record)
    assert (signal is None) == (by_wfdb is None)
    if signal is not None and by_wfdb is not None:
        assert signal.dtype == np.int16
        assert signal.shape == (12, N_SAMPLES)
        assert np.array_equal(signal, by_wfdb)


def signal_or_none(record: Path) -> Signal | None:
    try:
        return read_wfdb(str(record))
    except RecordFault as fault:
        str(fault).encode("utf-8")
        return None


def test_the_valid_header_is_read(record: Path) -> None:
    record.with_suffix(".hea").write_bytes(VALID)
    assert np.array_equal(read_wfdb(str(record)), DIGITAL.T * 5)
    read_or_fault(record, VALID)
    # So that the comparison above compares something.
    assert read_plain(VALID.decode().splitlines()[:13], record.parent) is not None


@quickly(max_examples=200)
@given(header=st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(header=b"\xff\xfer\0 \x001\x002\0")
@example(header=b"\xef\xbb\xbf" + VALID)
@example(header=b"r 1 500 5000\nr.dat 16\x0016 200\n")
@example(header=b"r 12")
@example(header=b"r 12 500 \n")
def test_arbitrary_bytes(record: Path, header: bytes) -> None:
    read_or_fault(record, header)


@quickly(max_examples=200)
@given(data=st.data())
def test_a_valid_header_with_bytes_deleted_inserted_or_swapped(record: Path, data: st.DataObject) -> None:
    header = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        start, end = sorted(data.draw(st.integers(0, len(header))) for _ in range(2))
        end = min(end, start + data.draw(st.integers(0, 60)))
        change = data.draw(st.sampled_from(["delete", "insert", "replace", "reverse", "repeat"]))
        noise = data.draw(st.binary(max_size=8) | st.sampled_from([b"\0", b"\n", b" ", b"\t", b"/", b"\xb5", b"\r\n"]))
        middle = bytes(header[start:end])
        header[start:end] = {
            "delete": b"",
            "insert": noise + middle,
            "replace": noise,
            "reverse": middle[::-1],
            "repeat": middle * 2,
        }[change]
    read_or_fault(record, bytes(header))


@quickly(max_examples=200)
@given(data=st.data())
def test_a_valid_header_with_fields_replaced_or_exchanged(record: Path, data: st.DataObject) -> None:
    lines = [line.split(" ") for line in VALID.decode().splitlines()]
    for _ in range(data.draw(st.integers(1, 3))):
        line = lines[data.draw(st.integers(0, 12))]
        first, second = (data.draw(st.integers(0, len(line) - 1)) for _ in range(2))
        if data.draw(st.booleans()):
            line[first] = data.draw(EXTREMES)
        else:
            line[first], line[second] = line[second], line[first]
    read_or_fault(record, "\n".join(" ".join(line) for line in lines).encode())


@quickly(max_examples=200)
@given(
    rate=st.integers(50, 20_000).map(str) | st.decimals(50, 20_000, places=3).map(str),
    counter=st.sampled_from(["", "/500", "/500(0)", "(0)", "/1.5(-3.5)"]),
    n_samples=st.none() | st.integers(1, 10**18 - 1),
    signals=st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z0-9_-]{1,8}(\.[a-z]{1,3})?", fullmatch=True),
            st.sampled_from(["8", "16", "24", "32", "61", "80", "160", "212", "310", "311"]),
            st.none() | st.integers(1, 10**9 - 1),
            st.none() | st.integers(0, 10**9 - 1),
            st.none() | st.integers(0, 10**18 - 1),
            st.floats(1e-6, 1e6).map(repr),
            st.none() | st.integers(-(2**31), 2**31),
            st.sampled_from([None, "mV", "uV", "µV", "V", "mmHg"]),
        ),
        min_size=1,
        max_size=15,
    ),
    blank=st.sampled_from([" ", "\t", "  "]),
    line_end=st.sampled_from(["\n", "\r\n", "\n\n# comment µ \u2028 and more\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_a_valid_header_gives_its_values(rate, counter, n_samples, signals, blank, line_end, encoding) -> None:  # type: ignore[no-untyped-def]
    lines = [["r", str(len(signals)), rate + counter, *([str(n_samples)] if n_samples else [])]]
    for name, form, frame, skew, offset, gain, baseline, unit in signals:
        parts = [("x", frame), (":", skew), ("+", offset)]
        described = form + "".join(f"{sign}{value}" for sign, value in parts if value is not None)
        scale = gain + ("" if baseline is None else f"({baseline})") + ("" if unit is None else f"/{unit}")
        lines.append([name, described, scale, "16", "0"])
    header = parse_header(line_end.join(blank.join(line) for line in lines).encode(encoding))
    assert header.sampling_rate_hz == float(rate)
    assert header.n_samples == n_samples
    for line, (name, form, frame, skew, offset, gain, _, unit) in zip(header.signals, signals, strict=True):
        assert (line.file_name, line.sample_format, line.gain, line.unit) == (name, form, float(gain), unit or "mV")
        assert (line.samples_per_frame, line.skew, line.byte_offset) == (frame or 1, skew or 0, offset or 0)


@quickly(max_examples=100)
@given(
    order=st.permutations([*LEADS, "X", "Resp"]),
    upper=st.booleans(),
    gains=st.lists(st.floats(50, 20_000).map(repr), min_size=14, max_size=14),
    baseline=st.integers(-500, 500),
    unit=st.sampled_from([("", 1000.0), ("/mV", 1000.0), ("/uV", 1.0), ("/µV", 1.0), ("/μV", 1.0), ("/V", 1e6)]),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_is_read(tmp_path_factory, order, upper, gains, baseline, unit, line_end) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.getbasetemp() / "written"
    folder.mkdir(exist_ok=True)
    digital = np.hstack([DIGITAL, DIGITAL[:, :2] // 2])
    (folder / "w.dat").write_bytes(digital.tobytes())
    sums = digital.astype(int).sum(axis=0) % 65536
    lines = ["w 14 500 5000"]
    for i, lead in enumerate(order):
        name = lead.upper() if upper else lead
        lines.append(f"w.dat 16 {gains[i]}({baseline}){unit[0]} 16 0 0 {sums[i]} 0 {name}")
    (folder / "w.hea").write_bytes(line_end.join(lines).encode())
    columns = [order.index(lead) for lead in LEADS]
    exact = (digital[:, columns] - float(baseline)) / [float(gains[i]) for i in columns] * unit[1]
    if np.abs(np.rint(exact)).max() > 32767:
        with pytest.raises(RecordFault, match="beyond"):
            read_wfdb(str(folder / "w"))
    else:
        assert np.abs(read_wfdb(str(folder / "w")) - exact.T).max() <= 0.5 + 1e-6
