"""PTB-XL v1.0.3. https://physionet.org/content/ptb-xl/1.0.3/

It has no potassium, and no RR interval of its own: the detector's takes its place (rr_source "detected"), or that of a
feature table of PTB-XL+ (https://physionet.org/content/ptb-xl-plus/1.0.1/, rr_source "ptb-xl+").
"""

from __future__ import annotations

import ast
from functools import lru_cache

import numpy as np
import pandas as pd
import pyarrow as pa

from ecgmoe.datasets.mimic import AGE_RANGE_YEARS, RR_RANGE_MS
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import TIME, DatasetError, StudyIndex
from ecgmoe.datasets.splits import refuse_divided_patients
from ecgmoe.datasets.tables import need_table, read_csv, study_table, unique_studies, within
from ecgmoe.ecg.rhythm import rhythm_from_scp

_FOLDS = 10


def read_ptbxl(root: str, options: IndexOptions) -> StudyIndex:
    """Index PTB-XL with splits by its stratified folds; the authors recommend 1 to 8, 9 and 10.

    Args:
        root: folder or URL with ptbxl_database.csv and records500/ or records100/.
        options: which sampling rate to read, which fold to report on, and where RR intervals come from.

    Raises:
        DatasetError: the table is missing, torn, lacks a column, or holds a fold or SCP codes that cannot be read.
    """
    table = need_table(root, "ptbxl_database.csv")
    path_column = "filename_hr" if options.sampling_rate == 500 else "filename_lr"
    columns = {
        "ecg_id": pa.int64(),
        "patient_id": pa.float64(),
        "age": pa.float64(),
        "sex": pa.float64(),
        "scp_codes": pa.string(),
        "strat_fold": pa.int64(),
        "recording_date": TIME,
        path_column: pa.string(),
    }
    names = {"ecg_id": "study_id", path_column: "path", "recording_date": "ecg_time"}
    frame = read_csv(table, columns).rename(columns=names)
    studies, excluded = unique_studies(frame, table)
    patients = studies["patient_id"]
    odd = ~(patients.between(0, 2**53) & (patients % 1 == 0))
    if odd.any():
        raise DatasetError(f"{table}: patient_id {patients[odd].iloc[0]:g} is no whole number: fetch the file again")
    studies["patient_id"] = patients.astype(np.int64)
    studies["age_years"] = within(studies["age"], *AGE_RANGE_YEARS)  # 300 stands for "over 89"
    studies["sex_female"] = studies["sex"].where(studies["sex"].isin((0, 1)))
    labels = [_rhythm(codes, table) for codes in studies["scp_codes"].fillna("{}")]
    studies["rhythm15"] = np.array(labels, dtype=np.float64)
    known = studies["strat_fold"].between(1, _FOLDS)
    if not known.all():
        other = studies[~known].iloc[0]
        raise DatasetError(
            f"{table}: ecg_id {other['study_id']} has strat_fold {other['strat_fold']}, expected 1 to {_FOLDS}"
        )
    funnel = [("rows in ptbxl_database.csv", len(frame)), ("with a safe path and an id of their own", len(studies))]
    closed = studies["strat_fold"] > options.test_fold
    excluded += tuple((path, f"in a fold above test_fold {options.test_fold}") for path in studies["path"][closed])
    studies = studies[~closed].reset_index(drop=True)
    before_test = options.test_fold - studies["strat_fold"]
    studies["split"] = before_test.map({0: "test", 1: "validation"}).fillna("train")
    refuse_divided_patients(studies, table)
    studies["rr_source"] = "detected"
    if options.rr_features:
        studies["rr_label_ms"] = _rr_of_features(studies["study_id"], options.rr_features)
        studies["rr_source"] = studies["rr_label_ms"].notna().map({True: "ptb-xl+"})
    funnel.append((f"in the folds up to {options.test_fold}", len(studies)))
    tables = (table, options.rr_features) if options.rr_features else (table,)
    return StudyIndex(
        table=study_table(studies), excluded=excluded, source="ptbxl", funnel=tuple(funnel), tables=tables
    )


def _rr_of_features(ecg_ids: pd.Series, path: str) -> pd.Series:
    features = read_csv(path, {"ecg_id": pa.int64(), "RR_Mean_Global": pa.float64()}).drop_duplicates("ecg_id")
    rr = ecg_ids.map(features.set_index("ecg_id")["RR_Mean_Global"])
    if rr.isna().all():
        raise DatasetError(f"{path} has an RR interval for none of the records: is it a feature table of PTB-XL+?")
    return within(rr, *RR_RANGE_MS)


@lru_cache(maxsize=1 << 14)
def _rhythm(scp_codes: str, table: str) -> int | None:
    try:
        codes = ast.literal_eval(scp_codes)
        if not isinstance(codes, dict):
            raise ValueError("not a dictionary")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:  # as literal_eval documents
        raise DatasetError(
            f"{table}: scp_codes {scp_codes[:80]!r} is no dictionary of codes: fetch the file again"
        ) from error
    return rhythm_from_scp(codes)
