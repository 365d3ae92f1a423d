"""Splits by patient: all ECGs of a patient are on one side, and stay there when records are added."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ecgmoe.datasets.schema import SPLITS, UNUSED, DatasetError
from ecgmoe.datasets.tables import column_names, read_csv

_SPELLINGS = {**{split: split for split in SPLITS}, "val": "validation", "valid": "validation", "dev": "validation"}
_KEYS = {"study_id": "study_id", "subject_id": "patient_id", "patient_id": "patient_id"}


def assign_splits(
    patient_ids: npt.NDArray[np.int64], seed: int, shares: tuple[float, float, float]
) -> npt.NDArray[np.object_]:
    """Split of each study, from a hash of seed and patient alone.

    Args:
        patient_ids: (studies,).
        seed: another seed gives other splits.
        shares: train, validation and test, summing to 1.

    Returns:
        (studies,) of `SPLITS`.
    """
    patients, positions = np.unique(patient_ids, return_inverse=True)
    draws = np.fromiter(
        (_uniform(str(seed), int(patient)) for patient in patients), dtype=np.float64, count=len(patients)
    )
    drawn = np.searchsorted(np.cumsum(shares)[:2], draws, side="right")
    return np.array(SPLITS, dtype=object)[drawn][positions]


def sample_patients(patient_ids: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.bool_]:
    """Whether each study belongs to the sample: all ECGs of the `number` patients with the lowest hashes.

    A larger sample holds every smaller one, and the draw is independent of the splits.
    """
    patients, positions = np.unique(patient_ids, return_inverse=True)
    draws = np.fromiter((_uniform("sample", int(patient)) for patient in patients), np.float64, len(patients))
    chosen = np.zeros(len(patients), dtype=bool)
    chosen[np.argsort(draws, kind="stable")[:number]] = True
    return chosen[positions]


def split_of(text: str) -> str | None:
    """The split that a table's cell names, in any case; "val", "valid" and "dev" are the validation; None for no split."""
    return _SPELLINGS.get(text.strip().lower())


def given_splits(studies: pd.DataFrame, path: str) -> pd.Series:
    """Splits from a CSV file with the columns split and study_id or subject_id; `UNUSED` where it names none.

    Where it has both, study_id decides and subject_id has to be that study's.

    Args:
        studies: with study_id and patient_id.
        path: of the file; its splits are read by `split_of`.

    Raises:
        DatasetError: a column is missing, an id or a split is not one, an id is in two splits, a patient is in two splits,
            a study is given to another patient than the dataset's, or the file names none of the studies.
    """
    keys = [name for name in _KEYS if name in column_names(path)]
    if not keys or keys == ["subject_id", "patient_id"]:
        raise DatasetError(f"{path} needs one column study_id or subject_id beside split, it has {len(keys)} of them")
    given = read_csv(path, {**dict.fromkeys(keys, pa.int64()), "split": pa.string()})
    if keys[0] == "study_id":
        _refuse_other_patients(studies, given, keys[1:], path)
    names = given["split"].map(split_of, na_action="ignore")
    wrong = names.isna() | given[keys[0]].isna()
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DatasetError(
            f"{path}, row {row + 2}: {keys[0]} {given[keys[0]][row]} is in split {given['split'][row]!r}, expected "
            f"{', '.join(SPLITS)}"
        )
    by_id = pd.DataFrame({"id": given[keys[0]].astype(np.int64), "split": names}).drop_duplicates()
    twice = by_id["id"][by_id["id"].duplicated()]
    if len(twice):
        raise DatasetError(f"{path}: {keys[0]} {twice.iloc[0]} is in two splits, which would leak: keep one")
    splits = studies[_KEYS[keys[0]]].map(by_id.set_index("id")["split"])
    if splits.isna().all():
        raise DatasetError(f"{path} names none of the {len(studies):,} studies: is it of this dataset?")
    refuse_divided_patients(studies.assign(split=splits).dropna(subset="split"), path)
    return splits.fillna(UNUSED)


def _refuse_other_patients(studies: pd.DataFrame, given: pd.DataFrame, columns: Sequence[str], path: str) -> None:
    """Raise DatasetError where a row names a study of the dataset with another patient: the ids would be mixed up."""
    patients = given["study_id"].map(studies.set_index("study_id")["patient_id"])
    for name in columns:
        wrong = patients.notna() & (given[name] != patients)
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise DatasetError(
                f"{path}, row {row + 2}: study_id {given['study_id'][row]} has {name} {given[name][row]}, in the dataset it "
                f"is of {patients[row]:.0f}: correct the row, or leave {name} out"
            )


def refuse_divided_patients(studies: pd.DataFrame, table: str) -> None:
    """Raise DatasetError where studies (patient_id, path, split) of one patient are in more than one split."""
    splits = studies.groupby("patient_id")["split"].nunique()
    if (splits > 1).any():
        path = studies.loc[studies["patient_id"] == splits.idxmax(), "path"].iloc[0]
        raise DatasetError(
            f"{table}: the patient of {path} is in more than one split, which would leak: put all in one"
        )


def _uniform(draw: str, patient_id: int) -> float:
    digest = hashlib.sha256(f"{draw}:{patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
