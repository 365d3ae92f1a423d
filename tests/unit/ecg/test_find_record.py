"""A recording is found by any of the names that a user gives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgmoe.ecg.read import find_record


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a", "a"),
        ("a.hea", "a"),
        ("a.dat", "a"),
        # A dot in a name is no extension.
        ("visit.1", "visit.1"),
        ("visit.1.dat", "visit.1"),
        # With a header it is a WFDB record, whatever its signal file is called.
        ("b.mat", "b"),
        ("c.mat", "c.mat"),
        ("c", None),
        ("d", None),
        ("d.mat", None),
        ("folder", None),
    ],
)
def test_names_of_a_recording(tmp_path: Path, given: str, found: str | None) -> None:
    for name in ("a.hea", "a.dat", "visit.1.hea", "visit.1.dat", "b.hea", "b.mat", "c.mat"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert find_record(str(tmp_path / given)) == (None if found is None else str(tmp_path / found))
