"""JSON is a record only where nothing has to be guessed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ecgmoe.ecg.array import from_array
from ecgmoe.ecg.record import LEADS, MISSING, RecordFault
from ecgmoe.serving.json_record import json_record
from ecgmoe.serving.refusal import Refusal
from serving_examples import json_request
from small_records import an_ecg


def read(request: Any) -> np.ndarray:
    return json_record(json.dumps(request).encode(), pad_short=False)


def test_a_record_is_what_the_array_is() -> None:
    expected = from_array(an_ecg(0), 500, LEADS, "uV")
    assert np.array_equal(read(json_request()), expected)
    assert np.array_equal(read(json_request(unit=None)), expected)
    assert np.array_equal(read(json_request(signal=an_ecg(0).tolist(), unit="uV", fs=500.0)), expected)


def test_null_is_a_missing_sample() -> None:
    request = json_request()
    request["signal"][3][7] = None
    signal = read(request)
    assert np.argwhere(signal == MISSING).tolist() == [[3, 7]]


def test_a_minute_is_read_and_more_is_not() -> None:
    minute = json_request(signal=[[0.001 * n for n in range(6000)]] * 12, fs=100)
    assert read(minute).shape == (12, 5000)
    minute["signal"] = [[*row, 0.0] for row in minute["signal"]]
    with pytest.raises(Refusal, match="limit is 60 s") as refusal:
        read(minute)
    assert refusal.value.status == 413


def test_a_record_is_padded_where_that_is_asked_for() -> None:
    short = json.dumps(json_request(signal=[row[:4000] for row in json_request()["signal"]])).encode()
    with pytest.raises(RecordFault):
        json_record(short, pad_short=False)
    assert (json_record(short, pad_short=True)[:, 4000:] == MISSING).all()


def test_more_leads_than_twelve() -> None:
    rows = [[0.0, 0.1] * 2500] * 33
    named = [*LEADS, *(f"X{n}" for n in range(21))]
    assert read(json_request(signal=rows[:32], leads=named[:32])).shape == (12, 5000)
    with pytest.raises(Refusal, match="expected 1 to 32"):
        read(json_request(signal=rows, leads=named))


def test_many_small_lists_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would take twenty times the body's memory."""
    monkeypatch.setattr(json, "loads", None)
    for body in (b"[" + b"[]," * 1000 + b"[]]", b"[" + b"{}," * 1000 + b"{}]", b"[" * 100_000):
        with pytest.raises(Refusal, match="more than 64 lists and objects"):
            json_record(body, pad_short=False)


def test_a_reason_says_where_and_nothing_of_what_is_there() -> None:
    for body in (b'{"fs": SMITH}', b'"SMITH \xff"', b'{"SMITH": 1}', b'{"fs": ' + b"9" * 5000 + b"}"):
        with pytest.raises(Refusal) as refusal:
            json_record(body, pad_short=False)
        assert not {"SMITH", "9999"} & set(refusal.value.reason.split("'"))
        assert "SMITH" not in refusal.value.reason
    with pytest.raises(Refusal, match="line 1 column 8"):
        json_record(b'{"fs": SMITH}', pad_short=False)
