"""Any folder of WFDB records or MATLAB files, with or without a CSV file of labels."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from ecgmoe.datasets.folder import list_records
from ecgmoe.datasets.labs import hypo_and_hyper
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.own_csv import read_own_csv
from ecgmoe.datasets.schema import DatasetError, StudyIndex
from ecgmoe.datasets.splits import assign_splits, refuse_divided_patients
from ecgmoe.datasets.tables import hash63, study_table, unique_studies, unsafe_paths, without_undecodable_names
from ecgmoe.filesystem import filesystem


def read_wfdb_folder(root: str, options: IndexOptions) -> StudyIndex:
    """Index a folder: the records of the CSV file, or without one every WFDB header and MATLAB file below root.

    study_id is the first 63 bits of the SHA-256 of the path under root. Without a patient_id each record counts as a
    patient of its own.

    Raises:
        DatasetError: no record, a column that is not known, a label that is not allowed, or a patient in two splits.
    """
    table = options.csv or root
    unreadable: tuple[tuple[str, str], ...] = ()
    if options.csv:
        frame = read_own_csv(options.csv)
        frame["path"] = _record_names(frame["path"], root)
    else:
        frame, unreadable = _listed(root)
    frame, unnamed = without_undecodable_names(frame)
    left_out = unreadable + unnamed
    frame["study_id"] = np.array([hash63(path) for path in frame["path"]], dtype=np.int64)
    frame["patient_id"] = _patient_ids(frame)
    if "potassium_mmol" in frame:
        frame = frame.join(hypo_and_hyper(frame["potassium_mmol"]))
    studies, excluded = unique_studies(frame, table, "the path is listed twice")
    drawn = pd.Series(assign_splits(studies["patient_id"].to_numpy(), options.split_seed, options.split_shares))
    if "split" in studies:
        refuse_divided_patients(studies, table)
        # A patient's records without a split follow those that have one.
        of_patient = studies.groupby("patient_id")["split"].transform("first")
        studies["split"] = of_patient.fillna(drawn)
    else:
        studies["split"] = drawn
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


def _record_names(paths: pd.Series, root: str) -> pd.Series:
    """The paths as `list_records` writes them: one recording has one name, whichever of its files a table names."""
    names = paths.str.removesuffix(".hea").str.removesuffix(".dat")
    system, base = filesystem(root)
    matlab = names.str.endswith(".mat") & ~unsafe_paths(names)
    stems = names[matlab].str.removesuffix(".mat")
    headed = [stem for stem in stems if system.exists(f"{base}/{stem}.hea")]
    return names.where(~(matlab & names.str.removesuffix(".mat").isin(headed)), names.str.removesuffix(".mat"))


# Tools that know no missing integers write 12 as 12.0.
_WHOLE_NUMBER = re.compile(r"(\d{1,18})(?:\.0*)?")


def _patient_ids(frame: pd.DataFrame) -> pd.Series:
    """Whole numbers as they are, anything else by its hash, the record's own id where there is none."""
    if "patient_id" not in frame:
        return frame["study_id"]
    ids = {text: _patient_id(text) for text in frame["patient_id"].dropna().unique()}
    chosen = [
        own if pd.isna(text) else ids[text] for text, own in zip(frame["patient_id"], frame["study_id"], strict=True)
    ]
    return pd.Series(np.array(chosen, dtype=np.int64), index=frame.index)


def _patient_id(text: str) -> int:
    number = _WHOLE_NUMBER.fullmatch(text)
    return int(number[1]) if number else hash63(text)
