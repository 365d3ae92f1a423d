"""MIMIC-IV-ECG v1.0 and simulated data in its layout. https://physionet.org/content/mimic-iv-ecg/1.0/

Labels come from machine_measurements.csv and, where the hosp tables are given, from patients.csv and labevents.csv.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from ecgmoe.datasets.labs import nearest_potassium, potassium_items, read_potassium
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import TIME, StudyIndex
from ecgmoe.datasets.splits import assign_splits, given_splits, sample_patients
from ecgmoe.datasets.tables import (
    find_table,
    join,
    need_table,
    read_csv,
    stream_csv,
    study_table,
    unique_studies,
    within,
)
from ecgmoe.ecg.rhythm import Hedged, classify_report0, find_rhythm

RR_RANGE_MS = (200.0, 3000.0)
"""Outside lie 0 and the sentinels 29999 and 65535."""
AGE_RANGE_YEARS = (18.0, 89.0)
MAX_ANCHOR_AGE = 89
"""Every anchor age above is stored as 91, so that the age at the ECG is not known."""

_MACHINE_LABELS = ("rr_label_ms", "cart_id", "report0_15", "rhythm15", "rhythm15_line", "rhythm15_hedged")
_REPORTS = tuple(f"report_{line}" for line in range(18))


def read_mimic(
    root: str, hosp: str | None, options: IndexOptions, *, source: Literal["simulated", "mimic-iv-ecg"]
) -> StudyIndex:
    """Index a folder in the layout of MIMIC-IV-ECG.

    Args:
        root: folder or URL with record_list.csv, machine_measurements.csv and files/.
        hosp: folder or URL with patients.csv[.gz] and, for potassium, labevents.csv[.gz]; without it age, sex and
            potassium are null.
        options: patients, splits, the window for potassium and what hedged statements mean.
        source: decides who the RR interval is from: the simulator or the ECG machine.

    Raises:
        DatasetError: a table is missing, torn, lacks a column or is empty.
    """
    record_list = need_table(root, "record_list.csv")
    columns = {"subject_id": pa.int64(), "study_id": pa.int64(), "ecg_time": TIME, "path": pa.string()}
    records = read_csv(record_list, columns).rename(columns={"subject_id": "patient_id"})
    studies, excluded = unique_studies(records, record_list)
    funnel = [("rows in record_list.csv", len(records)), ("with a safe path and an id of their own", len(studies))]
    if options.patients is not None:
        studies = studies[sample_patients(studies["patient_id"].to_numpy(), options.patients)].reset_index(drop=True)
        funnel.append((f"of {options.patients:,} sampled patients", len(studies)))
    machine = _machine_labels(need_table(root, "machine_measurements.csv"), options.hedged_statements)
    studies = studies.merge(machine, "left", "study_id")
    rr_source = "simulator" if source == "simulated" else "machine"
    studies["rr_source"] = studies["rr_label_ms"].notna().map({True: rr_source})
    if hosp is not None:
        studies = _with_hospital_labels(studies, hosp, options.potassium_window_minutes)
    if options.split_file is None:
        studies["split"] = assign_splits(studies["patient_id"].to_numpy(), options.split_seed, options.split_shares)
    else:
        studies["split"] = given_splits(studies, options.split_file)
    return StudyIndex(
        table=study_table(studies),
        excluded=excluded,
        source=source,
        funnel=tuple(funnel),
        tables=_tables(root, hosp, options),
    )


def _tables(root: str, hosp: str | None, options: IndexOptions) -> tuple[str, ...]:
    names = [join(root, name) for name in ("record_list.csv", "machine_measurements.csv")]
    if hosp is not None:
        names += [join(hosp, name) for name in ("patients.csv", "labevents.csv", "d_labitems.csv")]
    both = [file for name in names for file in (name, f"{name}.gz")]
    return (*both, options.split_file) if options.split_file else tuple(both)


def _machine_labels(path: str, hedged: Hedged) -> pd.DataFrame:
    """study_id and `_MACHINE_LABELS`. Batch by batch: the statements are most of the table."""
    columns = {"study_id": pa.int64(), "cart_id": pa.int64(), "rr_interval": pa.float64()}
    batches = stream_csv(path, {**columns, **dict.fromkeys(_REPORTS, pa.string())})
    parts = [_labels_of_batch(batch, hedged) for batch in batches]
    labels = pa.concat_tables(parts) if parts else pa.table({"study_id": pa.array([], pa.int64())})
    frame: pd.DataFrame = labels.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    frame["study_id"] = frame["study_id"].astype(np.int64)
    frame = frame.drop_duplicates("study_id").reindex(columns=["study_id", *_MACHINE_LABELS])
    frame["rr_label_ms"] = within(frame["rr_label_ms"], *RR_RANGE_MS)
    return frame


def _labels_of_batch(batch: pa.RecordBatch, hedged: Hedged) -> pa.Table:
    reports: Sequence[list[str | None]] = [batch[name].to_pylist() for name in _REPORTS]
    rhythms = [find_rhythm(lines, hedged) for lines in zip(*reports, strict=True)]
    return pa.table(
        {
            "study_id": batch["study_id"],
            "rr_label_ms": batch["rr_interval"],
            "cart_id": batch["cart_id"],
            "report0_15": pa.array([classify_report0(line or "") for line in reports[0]], pa.float32()),
            "rhythm15": pa.array([rhythm.label for rhythm in rhythms], pa.float32()),
            "rhythm15_line": pa.array([rhythm.line for rhythm in rhythms], pa.float32()),
            "rhythm15_hedged": pa.array([None if r.line is None else float(r.hedged) for r in rhythms], pa.float32()),
        }
    )


def _with_hospital_labels(studies: pd.DataFrame, hosp: str, window_minutes: float) -> pd.DataFrame:
    columns = {"subject_id": pa.int64(), "gender": pa.string(), "anchor_age": pa.int64(), "anchor_year": pa.int64()}
    patients = read_csv(need_table(hosp, "patients.csv"), columns).rename(columns={"subject_id": "patient_id"})
    studies = studies.merge(patients.drop_duplicates("patient_id"), "left", "patient_id")
    studies["sex_female"] = studies["gender"].map({"M": 0, "F": 1})
    age = studies["anchor_age"] + studies["ecg_time"].dt.year - studies["anchor_year"]
    studies["age_years"] = within(age.where(studies["anchor_age"] <= MAX_ANCHOR_AGE), *AGE_RANGE_YEARS)
    labevents = find_table(hosp, "labevents.csv")
    if labevents is None:
        warnings.warn(f"no labevents.csv in {hosp}: potassium stays without labels", stacklevel=2)
        return studies
    potassium = read_potassium(labevents, studies["patient_id"].to_numpy(), potassium_items(hosp))
    return studies.join(nearest_potassium(studies, potassium, window_minutes))
