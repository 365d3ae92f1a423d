"""Whatever bytes come: a record, or a reason; never another error, and never a file outside of the temporary folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ecgmoe.ecg.record import RecordFault
from ecgmoe.serving.refusal import Refusal
from ecgmoe.serving.upload import check_kind, form_files, uploaded_record, wfdb_record
from serving_examples import json_request, wfdb_files

with tempfile.TemporaryDirectory() as made:
    FILES = wfdb_files(Path(made))
HEADER, SAMPLES = FILES["one.hea"], FILES["one.dat"]
FORM = "multipart/form-data; boundary=xyz"
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def form(**files: bytes) -> bytes:
    parts = [
        b'--xyz\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), content)
        for name, content in files.items()
    ]
    return b"".join(parts) + b"--xyz--\r\n"


def either(content_type: str, body: bytes) -> None:
    why: Exception | None = None
    try:
        signal = uploaded_record(content_type, body, pad_short=False)
    except (RecordFault, Refusal) as fault:
        why = fault
    if why is None:
        assert signal.shape == (12, 5000)
        assert signal.dtype == np.int16
    else:
        assert str(why)
        assert 400 <= getattr(why, "status", 422) < 500


@QUICK
@given(st.binary(max_size=2000))
@example(b"")
@example(b"\x00")
@example(b"--xyz")
@example(b"--xyz--\r\n")
def test_any_bytes(body: bytes) -> None:
    either("application/json", body)
    either(FORM, body)


@QUICK
@given(st.integers(0, len(HEADER) - 1), st.binary(max_size=12), st.integers(0, 30))
def test_a_damaged_header(at: int, inserted: bytes, lost: int) -> None:
    either(FORM, form(**{"one.hea": HEADER[:at] + inserted + HEADER[at + lost :], "one.dat": SAMPLES}))


@QUICK
@given(st.integers(0, 2000), st.binary(max_size=8), st.integers(0, 20))
def test_a_damaged_form(at: int, inserted: bytes, lost: int) -> None:
    body = form(**FILES)
    either(FORM, body[:at] + inserted + body[at + lost :])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(QUICK, max_examples=60)
@given(st.sampled_from(["signal", "fs", "leads", "unit"]), JSON_VALUES)
def test_any_value_of_any_key(key: str, value: object) -> None:
    either("application/json", json.dumps(json_request() | {key: value}).encode())


def test_a_good_record_is_read_from_both() -> None:
    by_form = uploaded_record(FORM, form(**FILES), pad_short=False)
    by_json = uploaded_record("application/json; charset=utf-8", json.dumps(json_request()).encode(), pad_short=False)
    assert np.array_equal(by_form, by_json)
    assert check_kind(FORM, None) == "multipart/form-data"


def test_a_record_in_a_mat_file_with_a_header() -> None:
    """As the Challenges have them: format 16 behind 24 bytes."""
    header = HEADER.replace(b"one.dat 16 ", b"one.mat 16+24 ")
    assert wfdb_record({"one.hea": header, "one.mat": bytes(24) + SAMPLES}, pad_short=False).shape == (12, 5000)


def test_nothing_is_read_or_left_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The header names a file that is there, beside the temporary folder and anywhere else."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "one.dat").write_bytes(SAMPLES)
    for name in (
        b"../one.dat",
        str(tmp_path / "one.dat").encode(),
        b"..\\one.dat",
        b"~",
        b"~/one.dat",
        b"file:one.dat",
    ):
        with pytest.raises((RecordFault, Refusal)):
            wfdb_record({"one.hea": HEADER.replace(b"one.dat", name), "one.dat": SAMPLES}, pad_short=False)
    assert wfdb_record(FILES, pad_short=False).shape == (12, 5000)
    assert [each.name for each in tmp_path.iterdir()] == ["one.dat"]


@pytest.mark.parametrize("name", ["../one.dat", "a/b", ".hidden", "", "a\\b", "é.dat", "x" * 101, "a b.dat"])
def test_file_names_that_are_refused(name: str) -> None:
    with pytest.raises(Refusal) as refusal:
        form_files(FORM, form(**{name: b"x"}))
    assert refusal.value.status == 400


def test_a_file_that_only_says_that_it_is_encoded() -> None:
    body = form(**FILES).replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: x-gzip\r\n\r\n")
    with pytest.raises(Refusal, match="malformed"):
        form_files(FORM, body)
