"""The search for identifiers finds them as text and as integers of arrays, and takes nothing else for one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from identifiers import found_below, found_in_bytes

KNOWN = {"40953129", "10000032"}


def array(*values: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values, dtype=np.int64))
    return file.getvalue()


def test_identifiers_are_found_as_text_and_as_integers() -> None:
    assert found_in_bytes(KNOWN, b"files/s40953129.hea, patient 10000032") == KNOWN
    assert found_in_bytes(KNOWN, array(7, 40953129, 8)) == {"40953129"}
    # At an offset that is no multiple of eight.
    assert found_in_bytes(KNOWN, b"abc" + array(10000032)) == {"10000032"}


def test_other_numbers_are_not_taken_for_identifiers() -> None:
    assert found_in_bytes(KNOWN, b"140953129 409531290 0.40953129") == set()
    assert found_in_bytes(KNOWN, array(40953128, 40953129 << 32, -40953129)) == set()
    assert found_in_bytes(KNOWN, array(*range(1000))) == set()


def test_files_are_named_by_what_they_have(tmp_path: Path) -> None:
    (tmp_path / "features.npy").write_bytes(array(40953129))
    (tmp_path / "run.log").write_text("epoch 1/1")
    assert found_below(KNOWN, tmp_path) == {str(tmp_path / "features.npy"): {"40953129"}}
