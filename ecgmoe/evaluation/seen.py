"""Which records of another prepared folder a model met in training, and what a report says of them.

Patients are compared within a dataset by its own ids. Between datasets one overlap is known: the PhysioNet/CinC Challenge
2021 holds all of PTB-XL 1.0.1, as HR00001 to HR21837, and the number is the ecg_id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.pipeline.prepared import EVERY_SPLIT, PreparedData, split_rows

MET_IN = ("train", "validation")
"""Validation chose the checkpoint and the calibration."""

_PTBXL_IN_CINC2021 = re.compile(r"(?:^|/)HR0*(\d+)$")
_PRETRAINED_ON = {
    "mimic-iv-ecg": ("MIMIC-IV-ECG", ""),
    "cinc2021": ("CinC 2021", ""),
    "ptbxl": ("CinC 2021", " PTB-XL is a part of CinC 2021."),
}
"""By dataset the words for it in a backbone's provenance, and what has to be explained."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Records of the evaluated folder that training met.

    Attributes:
        left_out: (n,) study_id of those that must not be evaluated.
        notes: lines for the head of the report.
    """

    left_out: npt.NDArray[np.int64]
    notes: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """As JSON, for metrics.json."""
        return {"left_out": len(self.left_out), "notes": list(self.notes)}


NOTHING_SEEN = Seen(left_out=np.empty(0, np.int64), notes=())


def find_seen(trained_on: PreparedData, evaluated: PreparedData, split: str) -> Seen:
    """Which records of a split must not be evaluated, or only with a word about them.

    Args:
        trained_on: prepared folder of the training.
        evaluated: prepared folder of the records. In the same folder the splits keep patients apart.
        split: a split's name, or "all".

    Raises:
        ValueError: the model met every record, or "all" is asked of the folder that it was trained on.
    """
    if evaluated.store.root == trained_on.store.root:
        if split == EVERY_SPLIT:
            raise ValueError(
                "split all of the data that the model was trained on includes its training records: name train, validation "
                "or test, or other data with --data"
            )
        return NOTHING_SEEN
    records = evaluated.labels()
    records = records.take(pa.array(split_rows(records, split)))
    return compare(trained_on.manifest["dataset"], trained_on.labels(), evaluated.manifest["dataset"], records)


def compare(trained_on: str, training: pa.Table, evaluated: str, records: pa.Table) -> Seen:
    """Compare the records to be evaluated with those of the folder that a model was trained on.

    Args:
        trained_on: dataset of that folder.
        training: its labels.parquet, all splits.
        evaluated: dataset of the evaluated folder.
        records: rows of its labels.parquet that are to be evaluated.

    Raises:
        ValueError: the model met every record.
    """
    met = training.filter(pc.is_in(training["split"], pa.array(MET_IN)))
    if trained_on == evaluated == "wfdb":
        shared = int(_is_in(records["patient_id"], met["patient_id"]).sum())
        note = (
            f"{shared:,} of {len(records):,} records have a patient_id that training has too: own folders name patients as "
            "they like, so only you can know whether they are the same."
        )
        return Seen(left_out=NOTHING_SEEN.left_out, notes=(note,) if shared else ())
    if trained_on == evaluated:
        seen = _is_in(records["patient_id"], met["patient_id"])
        why = "training met their patients"
    elif (trained_on, evaluated) == ("ptbxl", "cinc2021"):
        seen = _ptbxl_ids(records) >= 0
        why = "they are PTB-XL's (HR...), which the model was trained on"
    elif (trained_on, evaluated) == ("cinc2021", "ptbxl"):
        patients = records["patient_id"].filter(pa.array(np.isin(records["study_id"].to_numpy(), _ptbxl_ids(met))))
        seen = _is_in(records["patient_id"], patients)
        why = "ECGs of their patients are in CinC 2021 (HR...), which the model was trained on"
    else:
        return NOTHING_SEEN
    if len(records) and seen.all():
        raise ValueError(f"none of the {len(records):,} records is new to the model, {why}: evaluate on other data")
    note = f"{int(seen.sum()):,} of {len(records):,} records are left out: {why}."
    return Seen(left_out=records["study_id"].to_numpy()[seen], notes=(note,) if seen.any() else ())


def seen_in_pretraining(dataset: str, pretraining: str) -> str:
    """What to add to a backbone's provenance where its pretraining met the evaluated dataset; nothing where it did not."""
    words, explanation = _PRETRAINED_ON.get(dataset, ("", ""))
    if not words or words not in pretraining:
        return ""
    return f"{explanation} THESE RECORDS ARE AMONG THEM: no figure here is that of unseen ECGs."


def _is_in(values: pa.ChunkedArray, others: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.isin(values.to_numpy(), others.to_numpy())


def _ptbxl_ids(records: pa.Table) -> npt.NDArray[np.int64]:
    """PTB-XL's ecg_id of records of CinC 2021, -1 for those of other sources."""
    matches = (_PTBXL_IN_CINC2021.search(path) for path in records["path"].to_pylist())
    return np.array([int(match[1]) if match else -1 for match in matches], dtype=np.int64)
