"""A server without Ray, and requests to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from ecgmoe.ecg.read import UsableRecord
from ecgmoe.ecg.record import LEADS
from ecgmoe.inference.predict_one import loaded
from ecgmoe.serving.answers import Answer, answers, description
from ecgmoe.serving.config import ServingConfig
from ecgmoe.serving.web import ModelHandle, web_application
from small_records import an_ecg, write_record

TOKEN = "a-token-of-twenty-characters"
SHOWN = {"Authorization": f"Bearer {TOKEN}"}


class Here:
    """A model in this process."""

    def __init__(self, folder: str) -> None:
        self.predictor, self.loaded = loaded(folder)
        self.folder = folder

    async def predict(self, record: UsableRecord) -> Answer:
        return answers(self.predictor, self.loaded, [record])[0]

    async def about(self) -> dict[str, Any]:
        return description(self.folder, self.predictor, self.loaded)


def client(folder: str, model: ModelHandle | None = None, token: str | None = TOKEN, **options: Any) -> TestClient:
    """A client of a server in this process that shows the token."""
    config = ServingConfig(model=folder, hosts=("testserver",), **options)
    app = web_application(config, model or Here(folder), token)
    return TestClient(app, headers=SHOWN if token else {}, raise_server_exceptions=False)


def json_request(seed: int = 0, **other: Any) -> dict[str, Any]:
    """The object of a good request; `other` are keys to set, or to leave out where they are None."""
    request = {"signal": (an_ecg(seed) / 1000).tolist(), "fs": 500, "leads": list(LEADS), "unit": "mV", **other}
    return {key: value for key, value in request.items() if value is not None}


def wfdb_files(folder: Path, seed: int = 0) -> dict[str, bytes]:
    """The two files of a good record, by name."""
    write_record(folder, "one", an_ecg(seed))
    return {name: (folder / name).read_bytes() for name in ("one.hea", "one.dat")}


def as_form(files: dict[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """Files as a client's `files=`."""
    return [("files", (name, content)) for name, content in files.items()]


def bad_requests(folder: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """By name: the status that a bad request gets, and the arguments of a client's `post`."""
    files = wfdb_files(folder)
    header, samples = files["one.hea"], files["one.dat"]

    def sent(status: int, content: str | bytes, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
        return status, {"content": content, "headers": {"Content-Type": kind}}

    def formed(status: int, **changed: Any) -> tuple[int, dict[str, Any]]:
        named = {"one.hea": header, "one.dat": samples, **changed.get("named", {})}
        return status, {"files": as_form({name: content for name, content in named.items() if content is not None})}

    def headed(status: int, old: bytes, new: bytes) -> tuple[int, dict[str, Any]]:
        assert old in header
        return formed(status, named={"one.hea": header.replace(old, new)})

    nan, with_null = json_request(), json_request()
    nan["signal"][3][7] = float("nan")
    with_null["signal"][3][7] = None
    text = json_request()
    text["signal"][0][0] = "0.5"
    huge = json.dumps(json_request()).replace('"fs": 500', '"fs": 1' + 400 * "0")
    return {
        "NaN": sent(400, json.dumps(nan)),
        "a missing sample": sent(422, json.dumps(with_null)),
        "a text among the samples": sent(422, json.dumps(text)),
        "no JSON": sent(400, '{"signal": ['),
        "no UTF-8": sent(400, b'{"unit": "\xff"}'),
        "deep nesting": sent(400, "[" * 100_000),
        "an array": sent(422, "[]"),
        "an unknown key": sent(422, json.dumps(json_request(patient="x"))),
        "a key twice": sent(400, '{"fs": 500, "fs": 250}'),
        "no fs": sent(422, json.dumps(json_request(fs=None))),
        "fs as text": sent(422, json.dumps(json_request(fs="500"))),
        "fs of 0": sent(422, json.dumps(json_request(fs=0))),
        "fs of 10^400": sent(422, huge),
        "a sample of 10^400": sent(
            422, json.dumps(json_request()).replace('"signal": [[', '"signal": [[1' + 400 * "0" + ",")
        ),
        "an infinite sample": sent(422, json.dumps(json_request()).replace('"signal": [[', '"signal": [[1e999, ')),
        "unknown unit": sent(422, json.dumps(json_request(unit="kV"))),
        "missing lead": sent(422, json.dumps(json_request(leads=["I", *LEADS[2:], "X"]))),
        "eleven rows": sent(422, json.dumps(json_request(signal=json_request()["signal"][:11]))),
        "uneven rows": sent(422, json.dumps(json_request(signal=[[0.0] * n for n in range(5000, 5012)]))),
        "three seconds": sent(422, json.dumps(json_request(signal=[row[:1500] for row in json_request()["signal"]]))),
        "two minutes": sent(413, json.dumps(json_request(fs=50, signal=[[0.0] * 6000] * 12))),
        "flat": sent(422, json.dumps(json_request(signal=[[0.0] * 5000] * 12))),
        "wrong type": sent(415, "hello", "text/plain"),
        "gzip": (
            415,
            {"content": b"\x1f\x8b", "headers": {"Content-Type": "application/json", "Content-Encoding": "gzip"}},
        ),
        "no boundary": sent(400, samples, "multipart/form-data"),
        "a form that is none": sent(400, samples, "multipart/form-data; boundary=x"),
        "a field": (400, {"files": as_form(files), "data": {"name": "somebody"}}),
        "no signal file": formed(422, named={"one.dat": None}),
        "no header": formed(422, named={"one.hea": None}),
        "two headers": formed(422, named={"two.hea": header}),
        "a file too many": formed(422, named={"two.dat": samples}),
        "a path as file name": formed(400, named={"../two.dat": samples}),
        "a torn signal file": formed(422, named={"one.dat": samples[:-100]}),
        "a path in the header": headed(422, b"one.dat", b"../one.dat"),
        "an absolute path": headed(422, b"one.dat", b"/etc/passwd"),
        "a URL": headed(422, b"one.dat", b"http://x/one.dat"),
        "several segments": headed(422, b"one 12", b"one/2 12"),
        "an hour": headed(413, b"500 5000", b"500 1800000"),
        "10^12 samples": headed(413, b"500 5000", b"500 1000000000000"),
        "10^9 samples per frame": headed(413, b" 16 ", b" 16x100000000 "),
        "a skew of 10^8": headed(413, b" 16 ", b" 16:100000000 "),
        "a compressed format": headed(422, b" 16 ", b" 516 "),
        "an unknown format": headed(422, b" 16 ", b" 17 "),
        "a rate of 1 MHz": headed(422, b"500 5000", b"1000000 5000"),
        "a gain of 0": headed(422, b"1000/mV", b"0/mV"),
        "a header of noise": formed(422, named={"one.hea": samples[:4000]}),
    }
