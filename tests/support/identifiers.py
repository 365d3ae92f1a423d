"""Find study and patient identifiers where they must not be, as digits or as the integers of binary files."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq

DIGITS = 8
"""Of every identifier of simulated studies and patients, as of MIMIC-IV's."""


def identifiers(data: Path) -> set[str]:
    """Study and patient ids of a prepared folder of simulated ECGs."""
    labels = pq.read_table(data / "labels.parquet", columns=["study_id", "patient_id"])
    found = {str(each) for name in labels.column_names for each in labels[name].to_pylist()}
    assert {len(each) for each in found} == {DIGITS}
    return found


def found_in_text(known: set[str], text: str) -> set[str]:
    """Those that a text has as whole numbers, or after a letter, as in file names (s40953129)."""
    return known & set(re.findall(rf"(?<![\d.])\d{{{DIGITS}}}(?!\d)", text))


def found_in_bytes(known: set[str], content: bytes) -> set[str]:
    """Those that a file has as text, or as little-endian integers of 64 bits as in arrays of numpy and Arrow, at any offset.

    Not found: what is compressed (as Parquet is by default), integers of other widths, SQLite's, which are big-endian.
    """
    packed = {each for each in known if int(each).to_bytes(8, "little") in content}
    return found_in_text(known, content.decode("latin-1")) | packed


def found_below(known: set[str], *places: Path) -> dict[str, set[str]]:
    """By file, those in files and in all files below folders, databases and pages among them."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    assert files, places
    hits = {str(file): found_in_bytes(known, file.read_bytes()) for file in files}
    return {file: ids for file, ids in hits.items() if ids}
