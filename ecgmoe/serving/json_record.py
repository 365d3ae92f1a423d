"""A record in JSON: strict, so that nothing is guessed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ecgmoe.ecg.array import from_array
from ecgmoe.ecg.convert import MV_PER_UNIT, checked_sampling_rate
from ecgmoe.ecg.record import Signal
from ecgmoe.serving.refusal import Refusal

MAX_SECONDS = 60.0
MAX_LEADS = 32
"""Twelve are used; a file may have more."""

_MAX_BRACKETS = 2 * MAX_LEADS
_KEYS = {"signal", "fs", "leads", "unit"}
_SAMPLE_TYPES = {int, float, type(None)}


def json_record(body: bytes, *, pad_short: bool) -> Signal:
    """A canonical record from {"signal": [[...] per lead], "fs": 500, "leads": ["I", ...], "unit": "mV"}.

    Args:
        body: UTF-8; null is a missing sample, the unit may be left out.
        pad_short: fill a record of less than 10 s instead of refusing it.

    Raises:
        Refusal: it is not this object.
        RecordFault: the ECG in it cannot be used.
    """
    request = _object(body)
    unit = request.get("unit", "mV")
    if not isinstance(unit, str) or unit not in MV_PER_UNIT:
        raise Refusal(422, f"unit must be one of {', '.join(MV_PER_UNIT)}")
    fs = request["fs"]
    if type(fs) not in (int, float):
        raise Refusal(422, "fs must be a number, the sampling rate in Hz")
    leads = request["leads"]
    if not isinstance(leads, list) or not all(isinstance(lead, str) and len(lead) <= 20 for lead in leads):
        raise Refusal(422, 'leads must be a list of names, one for each row of signal, such as ["I", "II", ...]')
    if not 1 <= len(leads) <= MAX_LEADS:
        raise Refusal(422, f"leads has {len(leads)} names, expected 1 to {MAX_LEADS}")
    rate = checked_sampling_rate(min(fs, 1 << 32))
    samples = _samples(request["signal"], len(leads), int(MAX_SECONDS * rate))
    return from_array(samples, rate, leads, unit, pad_short=pad_short)  # type: ignore[arg-type]


def _object(body: bytes) -> dict[str, Any]:
    # An empty list takes three bytes here and twenty times as many in memory.
    if body.count(b"[") + body.count(b"{") > _MAX_BRACKETS:
        raise Refusal(400, f"the body holds more than {_MAX_BRACKETS} lists and objects: send one record")
    try:
        value = json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_without_doubles)
    except ValueError as error:
        # The message of a JSONDecodeError says where, and nothing of what is there; others tell of the bytes.
        where = error if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise Refusal(400, f"the body is not JSON in UTF-8 ({where})") from error
    if not isinstance(value, dict):
        raise Refusal(422, 'the body must be an object: {"signal": [[...]], "fs": 500, "leads": ["I", ...]}')
    if unknown := set(value) - _KEYS:
        raise Refusal(422, f"{len(unknown)} unknown keys: an object has {', '.join(sorted(_KEYS))}")
    if missing := sorted(_KEYS - {"unit"} - set(value)):
        raise Refusal(422, f"{missing[0]} is missing: an object has {', '.join(sorted(_KEYS))}")
    return value


def _no_constant(name: str) -> float:
    raise Refusal(400, f"{name} is not JSON: write null for a missing sample")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Refusal(400, "a key is there twice: write each once")
    return value


def _samples(signal: Any, leads: int, longest: int) -> np.ndarray:
    """(leads, samples), NaN where a sample is null."""
    if not isinstance(signal, list) or not all(isinstance(row, list) for row in signal):
        raise Refusal(422, "signal must be a list of rows, one for each lead, each a list of samples")
    lengths = {len(row) for row in signal}
    if len(signal) != leads or len(lengths) != 1:
        raise Refusal(422, f"signal has {len(signal)} rows of {len(lengths)} lengths, expected {leads} of one length")
    if max(lengths) > longest:
        raise Refusal(413, f"signal has {max(lengths):,} samples, the limit is {MAX_SECONDS:g} s: send a part of it")
    if not all(set(map(type, row)) <= _SAMPLE_TYPES for row in signal):
        raise Refusal(422, "signal holds something else than numbers and null")
    try:
        return np.array(signal, dtype=np.float64)
    except OverflowError as error:
        raise Refusal(422, "signal holds a number that is too large") from error
