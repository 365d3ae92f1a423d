"""Potassium from the hospital's laboratory table (MIMIC-IV hosp), joined to ECGs by time.

https://mimic.mit.edu/docs/iv/modules/hosp/labevents/
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.datasets.schema import TIME, DatasetError
from ecgmoe.datasets.tables import find_table, read_csv, stream_csv

SERUM_ITEMS = (50971, 52610)
WHOLE_BLOOD_ITEMS = (50822, 52452)
PLAUSIBLE_MMOL = (1.5, 10.0)
"""Exclusive limits: values outside are artefacts, mostly samples drawn beside an infusion."""

HYPO_BELOW_MMOL, HYPER_FROM_MMOL = 3.5, 5.5

_POTASSIUM_LABEL = re.compile("potassium(?:,? *(?:serum|plasma|blood|whole blood))?", re.IGNORECASE)
_HAEMOLYSIS = "(?i)ha?emoly"
_COLUMNS = {
    "labevent_id": pa.int64(),
    "subject_id": pa.int64(),
    "itemid": pa.int64(),
    "charttime": TIME,
    "valuenum": pa.float64(),
    "ref_range_lower": pa.float64(),
    "ref_range_upper": pa.float64(),
    "flag": pa.string(),
    "comments": pa.string(),
}
_LABELS = {
    "labevent_id": ("labevent_id", pa.int64()),
    "subject_id": ("patient_id", pa.int64()),
    "charttime": ("charttime", TIME),
    "valuenum": ("potassium_mmol", pa.float32()),
    "itemid": ("potassium_itemid", pa.int32()),
    "ref_range_lower": ("potassium_ref_low", pa.float32()),
    "ref_range_upper": ("potassium_ref_high", pa.float32()),
}
"""Column of labevents to the name and type under which it is kept."""
_SLIM = pa.schema([*_LABELS.values(), ("flagged", pa.bool_())])


class PotassiumItems(NamedTuple):
    """itemid values that stand for potassium in blood."""

    serum: tuple[int, ...] = SERUM_ITEMS
    whole_blood: tuple[int, ...] = WHOLE_BLOOD_ITEMS


KNOWN_ITEMS = PotassiumItems()


def potassium_items(hosp: str) -> PotassiumItems:
    """The known item ids and, where d_labitems is given, any other one that it calls potassium in serum, plasma or blood.

    Raises:
        DatasetError: none of the known ids is there, one stands for something else than potassium in blood, or another
            item in blood has potassium in a name of which nobody has said what it measures.
    """
    path = find_table(hosp, "d_labitems.csv")
    if path is None:
        return KNOWN_ITEMS
    columns = {"itemid": pa.int64(), "label": pa.string(), "fluid": pa.string(), "category": pa.string()}
    items = read_csv(path, columns).fillna("")
    is_known = items["itemid"].isin((*SERUM_ITEMS, *WHOLE_BLOOD_ITEMS))
    if not is_known.any():
        raise DatasetError(
            f"{path} has none of the potassium items {(*SERUM_ITEMS, *WHOLE_BLOOD_ITEMS)}: is it MIMIC-IV's?"
        )
    in_blood = items["label"].str.contains("potassium", case=False) & (items["fluid"].str.lower() == "blood")
    if not in_blood[is_known].all():
        other = items[is_known & ~in_blood].iloc[0]
        raise DatasetError(
            f"{path}: item {other['itemid']} is {other['label']!r} in {other['fluid']!r}, expected potassium in blood: "
            "the table belongs to another release"
        )
    more = items[in_blood & ~is_known]
    unclear = more[~more["label"].str.fullmatch(_POTASSIUM_LABEL)]
    if len(unclear):
        other = unclear.iloc[0]
        raise DatasetError(
            f"{path}: item {other['itemid']} is {other['label']!r} in blood, which may or may not be a potassium value: "
            "take that row out, or leave the table out to use the known items alone"
        )
    whole = more["label"].str.contains("whole blood", case=False) | (more["category"].str.lower() == "blood gas")
    return PotassiumItems(
        serum=(*SERUM_ITEMS, *more["itemid"][~whole].tolist()),
        whole_blood=(*WHOLE_BLOOD_ITEMS, *more["itemid"][whole].tolist()),
    )


def read_potassium(labevents: str, patients: np.ndarray, potassium: PotassiumItems = KNOWN_ITEMS) -> pd.DataFrame:
    """Usable potassium values of some patients; the table is scanned as a stream.

    Args:
        labevents: path of labevents.csv or labevents.csv.gz.
        patients: subject_id values to keep.
        potassium: which items are potassium.

    Returns:
        patient_id, charttime, serum (else whole blood), potassium_mmol, potassium_itemid, potassium_ref_low and _high,
        potassium_abnormal and by_flag (whether the flag says so, the range being open), by charttime.

    Raises:
        DatasetError: the table cannot be read or lacks a column.
    """
    items = pa.array((*potassium.serum, *potassium.whole_blood))
    subjects = pa.array(np.unique(patients))
    kept = [_SLIM.empty_table()]
    for batch in stream_csv(labevents, _COLUMNS):
        rows = pa.Table.from_batches([batch]).filter(pc.is_in(batch["itemid"], items))
        rows = rows.filter(pc.is_in(rows["subject_id"], subjects))
        if len(rows):
            kept.append(_slim(rows.filter(_usable(rows))))
    frame = pa.concat_tables(kept).to_pandas()
    frame["potassium_abnormal"], frame["by_flag"] = _abnormal(frame)
    frame["serum"] = frame["potassium_itemid"].isin(potassium.serum)
    # The id decides between values of the same minute, so that the order of the file does not.
    frame = frame.sort_values(["charttime", "labevent_id"], kind="stable", ignore_index=True)
    return frame.drop(columns=["labevent_id", "flagged"])


def _slim(rows: pa.Table) -> pa.Table:
    """The rows with narrow columns: of the release about three million stay in memory until the scan is over."""
    flagged = pc.fill_null(pc.equal(rows["flag"], "abnormal"), False)
    return rows.select(list(_LABELS)).append_column("flagged", flagged).rename_columns(_SLIM.names).cast(_SLIM)


def _usable(rows: pa.Table) -> pa.ChunkedArray:
    plausible = pc.and_(pc.greater(rows["valuenum"], PLAUSIBLE_MMOL[0]), pc.less(rows["valuenum"], PLAUSIBLE_MMOL[1]))
    haemolysed = pc.match_substring_regex(pc.fill_null(rows["comments"], ""), _HAEMOLYSIS)
    return pc.fill_null(pc.and_(pc.and_(plausible, pc.is_valid(rows["charttime"])), pc.invert(haemolysed)), False)


def _abnormal(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Whether a value is abnormal, and by what.

    Outside the row's reference range; the flag, which contradicts the value at times, only where that is open.
    """
    value, low, high = (frame[f"potassium_{name}"].to_numpy() for name in ("mmol", "ref_low", "ref_high"))
    outside = (value < low) | (value > high)
    open_range = np.isnan(low) | np.isnan(high)
    by_flag = open_range & ~outside
    return (outside | (by_flag & frame["flagged"].to_numpy())), by_flag


def nearest_potassium(studies: pd.DataFrame, potassium: pd.DataFrame, window_minutes: float) -> pd.DataFrame:
    """For each ECG the value nearest in time within the window, serum before whole blood.

    Args:
        studies: patient_id and ecg_time.
        potassium: as `read_potassium` returns it.
        window_minutes: largest gap, either way.

    Returns:
        The labels of `read_potassium`, potassium_abnormal_by ("range" or "flag"), potassium_hypo, potassium_hyper (0 or
        1) and potassium_gap_minutes (lab minus ECG), null where there is no value, with the index of `studies`.
    """
    timed = studies[["patient_id", "ecg_time"]].dropna().sort_values("ecg_time", kind="stable")
    found = []
    for serum in (True, False):
        values = potassium[potassium["serum"] == serum].drop(columns="serum")
        nearest = pd.merge_asof(
            timed,
            values,
            left_on="ecg_time",
            right_on="charttime",
            by="patient_id",
            direction="nearest",
            tolerance=pd.Timedelta(minutes=window_minutes),
        )
        found.append(nearest.set_index(timed.index))
    chosen = found[0].where(found[0]["potassium_mmol"].notna(), found[1])
    chosen["potassium_gap_minutes"] = (chosen["charttime"] - chosen["ecg_time"]).dt.total_seconds() / 60
    chosen["potassium_abnormal"] = chosen["potassium_abnormal"].astype(float)
    chosen["potassium_abnormal_by"] = chosen["by_flag"].map({True: "flag", False: "range"})
    chosen = chosen.join(hypo_and_hyper(chosen["potassium_mmol"]))
    return chosen.drop(columns=["patient_id", "ecg_time", "charttime", "by_flag"]).reindex(studies.index)


def hypo_and_hyper(potassium_mmol: pd.Series) -> pd.DataFrame:
    """potassium_hypo (below 3.5 mmol/L) and potassium_hyper (from 5.5): 0 or 1, null where the value is."""
    known = potassium_mmol.notna()
    flags = {
        "potassium_hypo": potassium_mmol < HYPO_BELOW_MMOL,
        "potassium_hyper": potassium_mmol >= HYPER_FROM_MMOL,
    }
    return pd.DataFrame({name: flag.astype(float).where(known) for name, flag in flags.items()})
