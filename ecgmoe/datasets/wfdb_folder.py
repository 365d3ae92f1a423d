"""Any folder of WFDB records or MATLAB files, with or without a CSV file of labels."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa

from ecgmoe.datasets.folder import list_records
from ecgmoe.datasets.labs import PLAUSIBLE_MMOL
from ecgmoe.datasets.mimic import AGE_RANGE_YEARS, RR_RANGE_MS
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import SPLITS, DatasetError, StudyIndex
from ecgmoe.datasets.splits import assign_splits, refuse_divided_patients
from ecgmoe.datasets.tables import column_names, read_csv, study_table, unique_studies, within
from ecgmoe.ecg.rhythm import TAXONOMIES
from ecgmoe.ecg.wfdb_file import printable

_CLASSES = {
    "sex_female": 2,
    "potassium_abnormal": 2,
    "report0_15": len(TAXONOMIES["report0_15"]),
    "rhythm15": len(TAXONOMIES["rhythm15"]),
}
_NUMBERS = ("rr_label_ms", "age_years", "potassium_mmol")
_COLUMNS = ("path", "patient_id", "split", *_NUMBERS, *_CLASSES)


def read_wfdb_folder(root: str, options: IndexOptions) -> StudyIndex:
    """Index a folder: the records of the CSV file, or without one every WFDB header and MATLAB file below root.

    study_id is the first 63 bits of the SHA-256 of the path under root. Without a patient_id each record counts as a
    patient of its own.

    Raises:
        DatasetError: no record, a column that is not known, or a label that is not allowed.
    """
    table = options.csv or root
    frame, unreadable = (_read_csv(options.csv), ()) if options.csv else _listed(root)
    frame["path"] = frame["path"].str.removesuffix(".hea").str.removesuffix(".dat")
    frame, unnamed = _without_undecodable_names(frame)
    left_out = unreadable + unnamed
    frame["study_id"] = np.array([_hash63(path) for path in frame["path"].fillna("")], dtype=np.int64)
    frame["patient_id"] = _patient_ids(frame)
    studies, excluded = unique_studies(frame, table)
    drawn = assign_splits(studies["patient_id"].to_numpy(), options.split_seed, options.split_shares)
    studies["split"] = studies["split"].fillna(pd.Series(drawn)) if "split" in studies else drawn
    refuse_divided_patients(studies, table)
    listed = f"rows in {table.rsplit('/', 1)[-1]}" if options.csv else "files found"
    funnel = ((listed, len(frame) + len(left_out)), ("with a safe path and an id of their own", len(studies)))
    return StudyIndex(
        table=study_table(studies), excluded=left_out + excluded, source="wfdb", funnel=funnel, tables=(table,)
    )


def _listed(root: str) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """The recordings of the folder, and (path, reason) of what looks like one and cannot be read."""
    paths, excluded = list_records(root)
    if not paths:
        others = f" that can be read ({excluded[0][0]}: {excluded[0][1]})" if excluded else ""
        raise DatasetError(f"{root} holds no WFDB header (*.hea) and no *.mat{others}: give the folder of the records")
    return pd.DataFrame({"path": paths}), tuple(excluded)


def _without_undecodable_names(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """Python reads file names that are no UTF-8 with surrogates, which neither a hash nor a table can take."""
    shown = frame["path"].fillna("").map(printable)
    undecodable = shown != frame["path"].fillna("")
    reason = "the file name is not valid UTF-8: rename it"
    return frame[~undecodable].reset_index(drop=True), tuple((path, reason) for path in shown[undecodable])


def _read_csv(path: str) -> pd.DataFrame:
    present = column_names(path)
    unknown = [name for name in present if name not in _COLUMNS]
    if unknown:
        raise DatasetError(f"{path} has the unknown column {unknown[0]!r}: allowed are {', '.join(_COLUMNS)}")
    numbers = [name for name in present if name in _NUMBERS or name in _CLASSES]
    # "path" even where it is missing, because the reader then says so.
    columns = {**dict.fromkeys(["path", *present], pa.string()), **dict.fromkeys(numbers, pa.float64())}
    frame = read_csv(path, columns).replace("", None)
    for name in numbers:
        if name in _CLASSES:
            _check_values(frame[name], [float(value) for value in range(_CLASSES[name])], path)
    if "split" in frame:
        _check_values(frame["split"], list(SPLITS), path)
    if "age_years" in frame:
        frame["age_years"] = within(frame["age_years"], *AGE_RANGE_YEARS)
    if "potassium_mmol" in frame:
        frame["potassium_mmol"] = within(frame["potassium_mmol"], *PLAUSIBLE_MMOL)
    if "rr_label_ms" in frame:
        frame["rr_label_ms"] = within(frame["rr_label_ms"], *RR_RANGE_MS)
        frame["rr_source"] = frame["rr_label_ms"].notna().map({True: "user"})
    return frame


def _check_values(column: pd.Series, allowed: list[float] | list[str], path: str) -> None:
    wrong = column[column.notna() & ~column.isin(allowed)]
    if len(wrong):
        values = ", ".join(f"{value:g}" if isinstance(value, float) else value for value in allowed)
        raise DatasetError(
            f"{path}: {column.name} is {wrong.iloc[0]!r} in row {wrong.index[0] + 2}, allowed are {values} or nothing"
        )


def _patient_ids(frame: pd.DataFrame) -> pd.Series:
    """Whole numbers as they are, anything else by its hash, the record's own id where there is none."""
    if "patient_id" not in frame:
        return frame["study_id"]
    given = frame["patient_id"]
    if given.dropna().str.fullmatch(r"\d{1,18}").all():
        ids = [None if pd.isna(value) else int(value) for value in given]
    else:
        ids = [None if pd.isna(value) else _hash63(value) for value in given]
    chosen = [own if value is None else value for value, own in zip(ids, frame["study_id"], strict=True)]
    return pd.Series(np.array(chosen, dtype=np.int64), index=frame.index)


def _hash63(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
