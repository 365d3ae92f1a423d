"""The PhysioNet/CinC Challenge 2021, and 2020 in the same form. https://physionet.org/content/challenge-2021/1.0.3/

Age, sex and diagnoses (SNOMED CT codes) stand in comments of the headers. There is no patient's id, no RR interval (the
detector's takes its place) and no potassium.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import fsspec
import numpy as np
import pandas as pd

from ecgmoe.datasets.folder import list_records
from ecgmoe.datasets.mimic import AGE_RANGE_YEARS
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import DatasetError, StudyIndex
from ecgmoe.datasets.splits import assign_splits
from ecgmoe.datasets.tables import hash63, study_table, unique_studies, within, without_undecodable_names
from ecgmoe.ecg.snomed import rhythm_from_snomed, says_nothing_of_rhythm
from ecgmoe.ecg.wfdb_file import MAX_HEADER_BYTES
from ecgmoe.filesystem import StorageError, filesystem

MAX_LABELLED_S = 60.0
"""Diagnoses are of the whole recording. Of a longer one, the 10 s that are read need not show them."""

_READERS = 16
"""Headers that are read at once: from an object store each takes the time of an answer."""
_COMMENT = re.compile(r"#\s*(age|sex|dx)\s*:\s*(.*)", re.IGNORECASE)
_SEX = {"male": 0, "m": 0, "female": 1, "f": 1}
_NOTHING = {"", "unknown", "nan"}


class _Header(NamedTuple):
    """What a header says of the patient; None where it does not."""

    age: float | None = None
    sex_female: int | None = None
    codes: tuple[str, ...] | None = None
    seconds: float | None = None


def read_cinc2021(root: str, options: IndexOptions) -> StudyIndex:
    """Index all records below a folder of the challenge, with splits by hash.

    study_id is the first 63 bits of the SHA-256 of the record's name, which no two of the challenge's sources share.
    Each record counts as a patient of its own.

    Args:
        root: folder or URL of the whole, or of one of its sources.
        options: seed and shares of the splits.

    Raises:
        DatasetError: there is no header, or none of them names a diagnosis.
    """
    paths, unreadable = list_records(root)
    alone = [path for path in paths if path.endswith(".mat")]
    unreadable += [(path, "its header .hea is not beside it, which holds the labels") for path in alone]
    frame, unnamed = without_undecodable_names(pd.DataFrame({"path": [p for p in paths if p not in set(alone)]}))
    if frame.empty:
        raise DatasetError(f"{root} holds no WFDB header (*.hea): give the folder of the challenge's records")
    system, base = filesystem(root)
    with ThreadPoolExecutor(_READERS) as pool:
        headers = list(pool.map(partial(_read_header, system, base), frame["path"]))
    if all(header.codes is None for header in headers):
        raise DatasetError(
            f"no header below {root} has a line '# Dx: ...': read other folders of records with --dataset wfdb"
        )
    frame["study_id"] = np.array([hash63(path.rpartition("/")[2]) for path in frame["path"]], dtype=np.int64)
    frame["patient_id"] = frame["study_id"]
    frame["age_years"] = within(pd.Series([header.age for header in headers]), *AGE_RANGE_YEARS)
    frame["sex_female"] = pd.Series([header.sex_female for header in headers], dtype=np.float64)
    frame["rhythm15"] = pd.Series([_rhythm(header) for header in headers], dtype=np.float64)
    frame["codes"] = [header.codes or () for header in headers]
    studies, excluded = unique_studies(frame, root, "the record's name is there twice (study_id {})")
    studies["rr_source"] = "detected"
    studies["split"] = assign_splits(studies["patient_id"].to_numpy(), options.split_seed, options.split_shares)
    left_out = tuple(unreadable) + unnamed
    return StudyIndex(
        table=study_table(studies),
        excluded=left_out + excluded,
        source="cinc2021",
        funnel=(
            ("files found", len(frame) + len(left_out)),
            ("with a header, a safe path and a name of their own", len(studies)),
        ),
        tables=(root,),
        unmapped=_unmapped(studies["codes"]),
    )


def _read_header(system: fsspec.AbstractFileSystem, base: str, path: str) -> _Header:
    """A header that cannot be read is no fault here: reading the record finds it, and says why it is excluded."""
    file = f"{base}/{path}.hea"
    try:
        content = system.cat_file(file, end=MAX_HEADER_BYTES) if system.isfile(file) else b""
    except StorageError:
        raise
    except OSError:
        content = b""
    lines = content.decode("utf-8", "replace").splitlines()
    found = {match[1].lower(): match[2].strip() for match in map(_COMMENT.match, lines) if match}
    codes = found.get("dx")
    return _Header(
        age=_number(found.get("age", "")),
        sex_female=_SEX.get(found.get("sex", "").lower()),
        codes=None
        if codes is None
        else tuple(c for c in map(str.strip, codes.split(",")) if c.lower() not in _NOTHING),
        seconds=_seconds(lines),
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _seconds(lines: list[str]) -> float | None:
    """Duration by the record line: name, number of signals, sampling rate, number of samples."""
    record = next((line for line in lines if line.strip() and not line.startswith("#")), "").split()
    rate, samples = (_number(field) for field in (record[2:4] if len(record) > 3 else ("", "")))
    return samples / rate if rate and samples else None


def _rhythm(header: _Header) -> int | None:
    if header.seconds is not None and header.seconds > MAX_LABELLED_S:
        return None
    return rhythm_from_snomed(header.codes or ())


def _unmapped(codes: Iterable[tuple[str, ...]]) -> tuple[tuple[str, int], ...]:
    counts = Counter(code for each in codes for code in set(each) if says_nothing_of_rhythm(code))
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
