"""LUDB, the Lobachevsky University database, 1.0.1. https://physionet.org/content/ludb/1.0.1/

Cardiologists marked every QRS complex and named rhythm, conduction, extrasystoles and pacing: RR (rr_source "annotated")
and rhythm are people's, not a machine's.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ecgmoe.datasets.mimic import AGE_RANGE_YEARS, RR_RANGE_MS
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import DatasetError, StudyIndex
from ecgmoe.datasets.splits import assign_splits
from ecgmoe.datasets.tables import join, need_table, read_csv, study_table, unique_studies, within
from ecgmoe.ecg.beats import median_rr_ms
from ecgmoe.ecg.marks import read_qrs_marks
from ecgmoe.ecg.record import RecordFault

RR_LEAD = "ii"
"""The lead whose marks give RR. Each lead has its own; over all leads the median RR is 0.8 ms away, on average."""

_OVER_89 = ">89"
_SEX = {"M": 0, "F": 1}
# How a statement of a column begins, in lower case. A class that is named here has its statements in this column alone.
_RHYTHM: dict[str, dict[str, int]] = {
    "Cardiac pacing": {"": 0},
    "Conduction abnormalities": {"iii degree av": 2, "ii degree av": 2, "i degree av": 10},
    "Rhythms": {
        "atrial flutter": 3,
        "atrial fibrillation": 4,
        "wandering atrial pacemaker": 7,
        "sinus tachycardia": 11,
        "sinus bradycardia": 12,
        "sinus arrhythmia": 13,
        "sinus rhythm": 14,
    },
    "Extrasystolies": {"ventricular extrasystole": 8, "atrial extrasystole": 9},
}


def read_ludb(root: str, options: IndexOptions) -> StudyIndex:
    """Index LUDB with splits by hash. Every record is of a patient of its own.

    Args:
        root: folder or URL with ludb.csv and data/.
        options: seed and shares of the splits.

    Raises:
        DatasetError: the table is missing, torn, lacks a column, or holds an age that is none.
    """
    table = need_table(root, "ludb.csv")
    columns = {"ID": pa.int64(), **dict.fromkeys(("Sex", "Age", *_RHYTHM), pa.string())}
    frame = read_csv(table, columns).rename(columns={"ID": "study_id"})
    frame["patient_id"] = frame["study_id"]
    frame["path"] = [f"data/{number}" for number in frame["study_id"]]
    studies, excluded = unique_studies(frame, table)
    studies["sex_female"] = studies["Sex"].str.strip().map(_SEX)
    studies["age_years"] = within(_ages(studies["Age"].str.strip(), table), *AGE_RANGE_YEARS)
    statements = [list(_statements(row)) for _, row in studies.iterrows()]
    labels = [min((label for _, label in row if label is not None), default=None) for row in statements]
    studies["rhythm15"] = np.array(labels, dtype=np.float64)
    unmapped = Counter(text for row in statements for text, label in row if label is None)
    studies["rr_label_ms"] = within(pd.Series(_rr_of_marks(root, studies["path"])), *RR_RANGE_MS)
    studies["rr_source"] = studies["rr_label_ms"].notna().map({True: "annotated"})
    studies["split"] = assign_splits(studies["patient_id"].to_numpy(), options.split_seed, options.split_shares)
    return StudyIndex(
        table=study_table(studies),
        excluded=excluded,
        source="ludb",
        funnel=(("rows in ludb.csv", len(frame)), ("with an id of their own", len(studies))),
        tables=(table,),
        unmapped=tuple(unmapped.most_common()),
    )


def _ages(texts: pd.Series, table: str) -> pd.Series:
    ages = pd.to_numeric(texts.where(texts != "", None), errors="coerce")
    odd = ages.isna() & ~texts.isin(("", _OVER_89))
    if odd.any():
        row = int(odd.to_numpy().argmax())
        raise DatasetError(f"{table}: Age is {texts[row]!r} in row {row + 2}, expected years or {_OVER_89}")
    return ages


def _statements(row: pd.Series) -> Iterator[tuple[str, int | None]]:
    """Every statement of a record, as written, and its class. Several of one column stand in lines of one cell."""
    for column, classes in _RHYTHM.items():
        for text in filter(None, map(str.strip, row[column].splitlines())):
            begins = (label for beginning, label in classes.items() if text.lower().startswith(beginning))
            yield text, next(begins, None)


def _rr_of_marks(root: str, paths: pd.Series) -> npt.NDArray[np.float64]:
    """Median R-R of the marks in ms, NaN where they cannot be read: the record is usable without them."""
    intervals, faults = np.full(len(paths), np.nan), []
    for row, path in enumerate(paths):
        try:
            intervals[row] = median_rr_ms(read_qrs_marks(join(root, path), RR_LEAD)) or np.nan
        except RecordFault as fault:
            faults.append(str(fault))
    if faults:
        warnings.warn(
            f"{len(faults)} of {len(paths)} records stay without RR: {faults[0]}. Fetch the annotation files again; after that "
            "--relabel reads them",
            stacklevel=3,
        )
    return intervals
