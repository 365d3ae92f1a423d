"""From the bytes of a request to a canonical record. Nothing in them is trusted: they come from anywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, create_form_parser

from ecgmoe.ecg.record import Signal
from ecgmoe.ecg.wfdb_file import MAX_HEADER_BYTES, UNCOMPRESSED, Header, parse_header, read_wfdb
from ecgmoe.filesystem import temporary_folder
from ecgmoe.serving.json_record import MAX_LEADS, MAX_SECONDS, json_record
from ecgmoe.serving.refusal import Refusal

MAX_FILES = 1 + MAX_LEADS
"""A header, and at most a file for each of its signals."""

_MAX_VALUES = 1 << 22
"""Samples that are read at once; twelve leads of 10.5 s at 20 kHz are 2.5 million."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
JSON, FORM = "application/json", "multipart/form-data"


def check_kind(content_type: str | None, content_encoding: str | None) -> str:
    """The kind of a request's body, `JSON` or `FORM`.

    Raises:
        Refusal: it is another one, or compressed.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind not in (JSON, FORM):
        raise Refusal(
            415, f"Content-Type is {kind[:80]!r}: send {JSON}, or {FORM} with a .hea and its .dat or .mat file"
        )
    if (content_encoding or "identity").strip().lower() != "identity":
        raise Refusal(415, "Content-Encoding: compressed requests are not taken, send the bytes as they are")
    return kind


def uploaded_record(content_type: str, body: bytes, *, pad_short: bool) -> Signal:
    """The record of a request.

    Args:
        content_type: as `check_kind` took it.
        body: of the request.
        pad_short: fill a record of less than 10 s instead of refusing it.

    Raises:
        Refusal: the request is malformed.
        RecordFault: the ECG in it cannot be used.
    """
    if content_type.lower().startswith(JSON):
        return json_record(body, pad_short=pad_short)
    return wfdb_record(form_files(content_type, body), pad_short=pad_short)


def form_files(content_type: str, body: bytes) -> dict[str, bytes]:
    """Files of a form, by name.

    Raises:
        Refusal: it is malformed, it holds something else than files, or a file has a name that is none of WFDB's.
    """
    files: dict[str, bytes] = {}
    held: list[File] = []

    def on_field(field: Field) -> None:
        raise Refusal(400, "the form holds a field that is no file: send the .hea and the .dat or .mat file alone")

    def on_file(file: File) -> None:
        held.append(file)
        name = (file.file_name or b"").decode("latin-1")
        if not _FILE_NAME.fullmatch(name):
            raise Refusal(400, "a file name is empty or holds other characters than letters, digits, '_', '-' and '.'")
        if name in files:
            raise Refusal(400, "two files have the same name: send each once")
        if len(files) == MAX_FILES:
            raise Refusal(400, f"there are more than {MAX_FILES} files: send one record")
        file.file_object.seek(0)
        files[name] = file.file_object.read()

    try:
        # The whole body is in memory already: no file of it goes through the disk.
        settings = {"MAX_MEMORY_FILE_SIZE": len(body) + 1, "UPLOAD_ERROR_ON_BAD_CTE": True}
        parser = create_form_parser({"Content-Type": content_type.encode()}, on_field, on_file, settings)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise Refusal(400, f"the form is malformed ({error}): send multipart/form-data as curl -F does") from error
    finally:
        for file in held:
            file.close()
    if not files:
        raise Refusal(400, "the form holds no file, or is cut off: send the .hea and the .dat or .mat file")
    return files


def wfdb_record(files: Mapping[str, bytes], *, pad_short: bool) -> Signal:
    """A WFDB record from its files' bytes.

    Raises:
        Refusal: they are not one record, or more would have to be read than a server does.
        RecordFault: the record cannot be read.
    """
    headers = [name for name in files if name.endswith(".hea")]
    if len(headers) != 1:
        raise Refusal(422, f"there are {len(headers)} .hea files: send one header with its signal file")
    name = headers[0]
    if len(files[name]) > MAX_HEADER_BYTES:
        raise Refusal(413, f"the header is larger than {MAX_HEADER_BYTES:,} bytes: it is no WFDB header")
    header = parse_header(files[name])
    signal_files = header.file_names()
    if missing := [each for each in signal_files if each not in files]:
        raise Refusal(
            422, f"the header names the signal file {missing[0]!r}, which was not sent: send it beside the .hea"
        )
    if left := set(files) - set(signal_files) - {name}:
        raise Refusal(422, f"{len(left)} of the files are not named by the header: send one record")
    if name in signal_files:
        raise Refusal(422, "the header names itself as signal file")
    _check_amount(header, {each: len(files[each]) for each in signal_files})
    with temporary_folder() as folder:
        for each, content in files.items():
            (folder / each).write_bytes(content)
        return read_wfdb(str(folder / Path(name).stem), pad_short=pad_short)


def _check_amount(header: Header, sizes: Mapping[str, int]) -> None:
    """That reading the record takes little: files tell by few bytes of a header how much is allocated for them."""
    signals = header.signals
    if len(signals) > MAX_LEADS:
        raise Refusal(422, f"the header describes {len(signals)} signals, the limit is {MAX_LEADS}")
    if other := sorted({line.sample_format for line in signals} - UNCOMPRESSED):
        raise Refusal(422, f"format {other[0]} is not taken: write the signals in format 16")
    # A sample has a byte at least, so that no file holds more samples than bytes.
    frames = header.n_samples if header.n_samples is not None else max(sizes.values())
    seconds = frames / header.sampling_rate_hz
    if header.n_samples is not None and seconds > MAX_SECONDS:
        raise Refusal(413, f"the header promises {seconds:,.0f} s, the limit is {MAX_SECONDS:g} s: send a part of it")
    read = min(frames, header.wanted_samples()) if header.n_samples is not None else frames
    skew = max(line.skew for line in signals)
    if (read + skew) * math.fsum(line.samples_per_frame for line in signals) > _MAX_VALUES:
        raise Refusal(413, f"more than {_MAX_VALUES:,} samples would have to be read: send 10 s of the twelve leads")
