"""PTB-XL v1.0.3. https://physionet.org/content/ptb-xl/1.0.3/

It has no RR interval of its own (the detector's takes its place, rr_source "detected") and no potassium.
"""

from __future__ import annotations

import ast
from functools import lru_cache

import numpy as np
import pyarrow as pa

from ecgmoe.datasets.mimic import AGE_RANGE_YEARS
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import DatasetError, StudyIndex
from ecgmoe.datasets.tables import need_table, read_csv, study_table, unique_studies, within
from ecgmoe.ecg.rhythm import rhythm_from_scp

_FOLDS = {**dict.fromkeys(range(1, 9), "train"), 9: "validation", 10: "test"}


def read_ptbxl(root: str, options: IndexOptions) -> StudyIndex:
    """Index PTB-XL with the splits that its authors recommend: folds 1 to 8, 9 and 10.

    Args:
        root: folder or URL with ptbxl_database.csv and records500/ or records100/.
        options: which sampling rate to read.

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
        path_column: pa.string(),
    }
    frame = read_csv(table, columns).rename(columns={"ecg_id": "study_id", path_column: "path"})
    studies, excluded = unique_studies(frame, table)
    studies["patient_id"] = studies["patient_id"].astype(np.int64)
    studies["age_years"] = within(studies["age"], *AGE_RANGE_YEARS)  # 300 stands for "over 89"
    studies["sex_female"] = studies["sex"].where(studies["sex"].isin((0, 1)))
    labels = [_rhythm(codes, table) for codes in studies["scp_codes"].fillna("{}")]
    studies["rhythm15"] = np.array(labels, dtype=np.float64)
    studies["split"] = studies["strat_fold"].map(_FOLDS)
    if studies["split"].isna().any():
        other = studies[studies["split"].isna()].iloc[0]
        raise DatasetError(
            f"{table}: ecg_id {other['study_id']} has strat_fold {other['strat_fold']}, expected 1 to 10"
        )
    studies["rr_source"] = "detected"
    return StudyIndex(table=study_table(studies), excluded=excluded, source="ptbxl")


@lru_cache(maxsize=1 << 14)
def _rhythm(scp_codes: str, table: str) -> int | None:
    try:
        codes = ast.literal_eval(scp_codes)
        if not isinstance(codes, dict):
            raise ValueError("not a dictionary")
    except (ValueError, SyntaxError) as error:
        raise DatasetError(
            f"{table}: scp_codes {scp_codes[:80]!r} is no dictionary of codes: fetch the file again"
        ) from error
    return rhythm_from_scp(codes)
