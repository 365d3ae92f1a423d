"""MIMIC-IV's tables at full size: how long they take and how much memory. All values are generated."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from ecgmoe.benchmark.memory import measured
from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.labs import SERUM_ITEMS, WHOLE_BLOOD_ITEMS, read_potassium
from ecgmoe.pipeline.config import PrepareConfig
from ecgmoe.pipeline.prepare import shard_plan

RELEASE_STUDIES, RELEASE_PATIENTS = 800_035, 161_352
"""Of MIMIC-IV-ECG 1.0."""
_CHUNK = 1_000_000
_POTASSIUM_SHARE = 0.03
_START = np.datetime64("2110-01-01T00:00:00")
_STATEMENTS = (
    "Sinus rhythm",
    "Sinus bradycardia",
    "Atrial fibrillation with rapid ventricular response",
    "Sinus rhythm with PAC(s)",
    "Possible ectopic atrial rhythm",
)


def labevents_benchmark(rows: int) -> dict[str, Any]:
    """Scan a generated labevents.csv; rows, MB/s and the peak memory of the scanning process."""
    with tempfile.TemporaryDirectory(prefix="labevents-") as folder:
        path = Path(folder) / "labevents.csv"
        write_labevents(path, rows, RELEASE_PATIENTS)
        size = path.stat().st_size
        scan = measured(_scan, str(path))
    return {
        "rows": rows,
        "file_bytes": size,
        "seconds": scan.seconds,
        "rows_per_second": rows / scan.seconds,
        "potassium_values": scan.value,
        "peak_bytes": scan.peak_bytes,
        "base_bytes": scan.base_bytes,
    }


def _scan(path: str) -> int:
    return len(read_potassium(path, np.arange(RELEASE_PATIENTS)))


def write_labevents(path: Path, rows: int, patients: int) -> None:
    """A table with the release's columns, its share of potassium and texts of its length."""
    random = np.random.default_rng(0)
    potassium = np.array([*SERUM_ITEMS, *WHOLE_BLOOD_ITEMS])
    with path.open("wb") as file:
        writer = None
        for start in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - start)
            is_potassium = random.random(count) < _POTASSIUM_SHARE
            value = np.where(is_potassium, random.normal(4.2, 0.6, count), random.normal(90, 30, count)).round(1)
            times = (_START + random.integers(0, 3 * 10**9, count).astype("timedelta64[s]")).astype("datetime64[s]")
            empty = pa.nulls(count, pa.string())
            table = pa.table(
                {
                    "labevent_id": np.arange(start, start + count),
                    "subject_id": random.integers(0, patients, count),
                    "hadm_id": random.integers(2 * 10**7, 3 * 10**7, count),
                    "specimen_id": random.integers(0, 10**8, count),
                    "itemid": np.where(
                        is_potassium, random.choice(potassium, count), random.integers(51000, 51900, count)
                    ),
                    "order_provider_id": empty,
                    "charttime": pa.array(times).cast(pa.string()),
                    "storetime": pa.array(times).cast(pa.string()),
                    "value": pa.array(value).cast(pa.string()),
                    "valuenum": value,
                    "valueuom": pa.array(["mmol/L"] * count),
                    "ref_range_lower": np.full(count, 3.3),
                    "ref_range_upper": np.full(count, 5.1),
                    "flag": pa.array(np.where(random.random(count) < 0.3, "abnormal", "")),
                    "priority": pa.array(["ROUTINE"] * count),
                    "comments": pa.array(
                        np.where(random.random(count) < 0.1, "HEMOLYSIS FALSELY ELEVATES K, CHECKED", "")
                    ),
                }
            )
            if writer is None:
                writer = pa_csv.CSVWriter(file, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def index_benchmark(studies: int) -> dict[str, Any]:
    """Index generated tables of so many studies and plan their shards: time, sizes and the driver's peak memory."""
    with tempfile.TemporaryDirectory(prefix="index-") as folder:
        write_tables(Path(folder), studies, max(1, round(studies * RELEASE_PATIENTS / RELEASE_STUDIES)))
        result = measured(_index, folder)
    return {"studies": studies, **result.value, "seconds": result.seconds, "peak_bytes": result.peak_bytes}


def _index(root: str) -> dict[str, Any]:
    index = build_index("mimic-iv-ecg", root, f"{root}/hosp")
    shards, plan = shard_plan(index, PrepareConfig())
    return {
        "index_bytes": index.table.nbytes,
        "object_store_bytes": sum(shard.nbytes for shard in shards),
        "shards": len(shards),
        "shard_rows": plan["shard_rows"],
    }


def write_tables(root: Path, studies: int, patients: int) -> None:
    """record_list.csv, machine_measurements.csv and hosp/ with patients.csv and two laboratory rows per study."""
    random = np.random.default_rng(1)
    subject = np.sort(random.integers(10_000_000, 10_000_000 + patients, studies))
    study = 40_000_000 + random.permutation(studies)
    times = pd.Series(_START + random.integers(0, 3 * 10**9, studies).astype("timedelta64[s]")).astype("datetime64[s]")
    text = pd.Series(study.astype(str))
    path = "files/p" + pd.Series(subject // 10_000).astype(str) + "/p" + pd.Series(subject).astype(str) + "/s" + text
    ids = pd.DataFrame({"subject_id": subject, "study_id": study})
    ids.assign(file_name=study, ecg_time=times, path=path + "/" + text).to_csv(root / "record_list.csv", index=False)
    machine = ids.assign(cart_id=random.integers(0, 200, studies), ecg_time=times)
    for line in range(18):
        statements = random.choice(np.array(_STATEMENTS if line == 0 else ("", "", "Borderline ECG")), studies)
        machine[f"report_{line}"] = statements
    machine["bandwidth"], machine["filtering"] = "0.005-150 Hz", "60 Hz notch Baseline filter"
    machine["rr_interval"] = random.integers(400, 1400, studies)
    for name in ("p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis"):
        machine[name] = random.integers(0, 400, studies)
    machine.to_csv(root / "machine_measurements.csv", index=False)
    hosp = root / "hosp"
    hosp.mkdir()
    people = np.arange(10_000_000, 10_000_000 + patients)
    pd.DataFrame(
        {
            "subject_id": people,
            "gender": random.choice(np.array(["F", "M"]), patients),
            "anchor_age": random.integers(18, 92, patients),
            "anchor_year": 2150,
        }
    ).to_csv(hosp / "patients.csv", index=False)
    labs = pd.DataFrame(
        {
            "labevent_id": np.arange(2 * studies),
            "subject_id": np.repeat(subject, 2),
            "itemid": random.choice(np.array([*SERUM_ITEMS, *WHOLE_BLOOD_ITEMS]), 2 * studies),
            "charttime": np.repeat(times.to_numpy(), 2)
            + random.integers(-7200, 7200, 2 * studies).astype("timedelta64[s]"),
            "valuenum": random.normal(4.2, 0.6, 2 * studies).round(1),
            "ref_range_lower": 3.3,
            "ref_range_upper": 5.1,
            "flag": "",
            "comments": "",
        }
    )
    pa_csv.write_csv(pa.Table.from_pandas(labs.astype({"charttime": "datetime64[s]"})), hosp / "labevents.csv")
