"""Good and bad requests to a server, made of WFDB records."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import read_record, usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import LEADS, MISSING, RecordFault

GOOD = "good"
_JSON = "application/json"
_FORM = "multipart/form-data; boundary=between-the-files"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request to /predict.

    Attributes:
        kind: `GOOD`, or what is wrong with it.
        content_type: of the body.
        body: as it goes over the wire.
        announced: Content-Length; None for that of the body.
    """

    kind: str
    content_type: str
    body: bytes
    announced: int | None = None


def good_requests(root: Path, wanted: int) -> list[Sent]:
    """A JSON and a WFDB request for each of the first usable records below a folder.

    Raises:
        ValueError: there is none.
    """
    found: list[Sent] = []
    for header in sorted(root.rglob("*.hea")):
        if len(found) >= wanted:
            break
        try:
            signal = read_record(str(header.with_suffix("")), ReaderOptions())
            usable(signal, ReaderOptions(), QualityPolicy())
        except RecordFault:
            continue
        rows = [[None if sample == MISSING else sample for sample in row] for row in signal.tolist()]
        request = {"signal": rows, "fs": 500, "leads": list(LEADS), "unit": "uV"}
        files = [header, *sorted(header.parent.glob(f"{header.stem}.dat"))]
        found.append(Sent(kind=GOOD, content_type=_JSON, body=json.dumps(request).encode()))
        found.append(Sent(kind=GOOD, content_type=_FORM, body=_form({each.name: each.read_bytes() for each in files})))
    if not found:
        raise ValueError(f"{root} holds no usable WFDB record")
    return found


def bad_requests(as_json: Sent, as_form: Sent, limit: int) -> list[Sent]:
    """What is to be answered with a 4xx, one of each kind.

    Args:
        as_json: a good request.
        as_form: a good request.
        limit: bytes that the server takes.
    """
    request = json.loads(as_json.body)
    signal = request["signal"]

    def changed(kind: str, **values: object) -> Sent:
        return replace(as_json, kind=kind, body=json.dumps(request | values).encode())

    return [
        replace(as_json, kind="oversized", body=b" " * (limit + 1)),
        replace(as_json, kind="wrong type", content_type="text/csv"),
        changed("NaN", signal=[[float("nan"), *signal[0][1:]], *signal[1:]]),
        changed("missing lead", leads=request["leads"][:11], signal=signal[:11]),
        replace(as_json, kind="announces 1 GB", announced=1_000_000_000),
        replace(as_json, kind="torn JSON", body=as_json.body[: len(as_json.body) // 2]),
        replace(as_form, kind="torn form", body=as_form.body[: len(as_form.body) // 2]),
        changed("two seconds", signal=[row[:1000] for row in signal]),
    ]


def _form(files: dict[str, bytes]) -> bytes:
    head = b'--between-the-files\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n'
    return b"".join(head % name.encode() + content + b"\r\n" for name, content in files.items()) + (
        b"--between-the-files--\r\n"
    )
