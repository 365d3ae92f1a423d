"""A simulated dataset in the exact layout of MIMIC-IV-ECG 1.0, hosp tables included. No patient in it is real.

It is a demonstration and a test bed: all labels can be learnt from its waveforms, and its faults (missing samples, dead
leads, sentinels, haemolysed samples, labs out of the window) come at the release's rates.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ecgmoe.ecg.physiology import (
    OLDEST_STORED_AGE,
    Ints,
    Patients,
    Rhythm,
    Studies,
    draw_patients,
    draw_samples,
    draw_studies,
)
from ecgmoe.ecg.record import LEADS, MISSING, N_LEADS, N_SAMPLES, SAMPLING_RATE_HZ
from ecgmoe.ecg.waveform import AVBlock, Timeline, draw_timeline, synthesise

MARKER = "SIMULATED.txt"
"""A dataset folder that holds this file is simulated; every report on it says so."""
TRUTH = "simulated_truth.parquet"
CHUNK = 64
UNITS_PER_MV = 200
FILE_ORDER = [LEADS.index(lead) for lead in ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")]
"""The release writes aVF before aVL."""

RELEASE_STUDIES = 800_035
RELEASE_DAMAGED = {"missing": 10_554, "zero_lead": 1_950, "over_range": 989, "flat": 15}
ONE_OF_EACH_FROM = 200
"""From this many studies on, each kind of damage and of rare sentinel occurs at least once."""
NOT_MEASURABLE = 29_999
NO_AXIS = (32_767, -32_768)
REPORTS = 18


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """What to simulate.

    Attributes:
        patients: number of people.
        studies: number of ECGs, at least one per patient.
        seed: the same configuration gives the same bytes.
        hosp: also write the hospital tables (age, sex, laboratory), under hosp/.
        damaged: damage some records as in the release.
    """

    patients: int = 700
    studies: int = 1600
    seed: int = 0
    hosp: bool = True
    damaged: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.patients <= 1_000_000:
            raise ValueError(f"patients must be between 1 and 1000000, got {self.patients}")
        if not self.patients <= self.studies <= 5_000_000:
            raise ValueError(
                f"studies must be between the number of patients ({self.patients}) and 5000000, got {self.studies}: "
                "every patient has at least one ECG"
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


def simulate(root: Path, config: SimulationConfig, progress: Callable[[int, int], None] | None = None) -> None:
    """Write a dataset under `root`; either all of it is there afterwards, or nothing.

    Args:
        root: a folder that is absent or empty.
        config: what to simulate.
        progress: called with (records written, records in all) after each chunk.

    Raises:
        FileExistsError: `root` is a file, or holds something already.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} is not empty: remove it or choose another folder for the simulated data")
    root.parent.mkdir(parents=True, exist_ok=True)
    building = root.parent / f".{root.name}.{uuid4().hex}.partial"
    building.mkdir()
    try:
        _write(building, config, progress or (lambda done, total: None))
        building.rename(root)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(root: Path, config: SimulationConfig, progress: Callable[[int, int], None]) -> None:
    people, hearts, tables, laboratory = (np.random.default_rng((config.seed, stream)) for stream in range(4))
    patients = draw_patients(people, config.patients)
    studies = draw_studies(people, patients, config.studies)
    timeline = draw_timeline(hearts, studies)
    damage = _draw_damage(tables, len(studies)) if config.damaged else np.full(len(studies), "")
    subject = patients.subject_id[studies.patient]
    paths = [f"files/p{s // 10_000}/p{s}/s{i}/{i}" for s, i in zip(subject, studies.study_id, strict=True)]
    _write_index(root, studies, subject, paths)
    _machine_measurements(tables, studies, subject, timeline).to_csv(root / "machine_measurements.csv", index=False)
    _write_truth(root, studies, subject, timeline, damage)
    if config.hosp:
        _write_hosp(laboratory, root / "hosp", patients, studies)
    for start in range(0, len(studies), CHUNK):
        chosen = slice(start, start + CHUNK)
        some = studies.rows(chosen)
        leads = synthesise(config.seed, some, timeline.rows(chosen))
        units = np.clip(np.rint(leads * UNITS_PER_MV), MISSING + 1, -MISSING - 1).astype("<i2")
        for row, kind in enumerate(damage[chosen]):
            _apply_damage(np.random.default_rng((config.seed, int(some.study_id[row]), 1)), kind, units[row])
        _write_records(root, paths[chosen], subject[chosen], some, units)
        progress(start + len(some), len(studies))
    (root / MARKER).write_text(
        "This dataset was made by a program. No patient, recording, measurement or report in it is real.\n"
        f"ecgmoe simulation: {config}\n"
    )


def _draw_damage(rng: np.random.Generator, n: int) -> npt.NDArray[np.str_]:
    """Kind of damage per record, "" for none."""
    damage, free = np.full(n, "", dtype="U10"), rng.permutation(n)
    for kind, damaged in RELEASE_DAMAGED.items():
        count = max(round(damaged / RELEASE_STUDIES * n), int(n >= ONE_OF_EACH_FROM))
        damage[free[:count]], free = kind, free[count:]
    return damage


def _apply_damage(rng: np.random.Generator, kind: str, units: npt.NDArray[np.int16]) -> None:
    """Damage one record, (12, T) in digital units, in place."""
    start, length = int(rng.integers(0, N_SAMPLES - 600)), int(rng.integers(20, 600))
    if kind == "missing":
        units[rng.random(N_LEADS) < rng.choice([0.15, 1.0]), start : start + length] = MISSING
        units[rng.integers(N_LEADS), start : start + length] = MISSING
    elif kind == "zero_lead":
        units[rng.integers(N_LEADS)] = 0
    elif kind == "over_range":
        units[rng.integers(6, N_LEADS), start : start + length] = rng.choice([-1, 1]) * rng.integers(2_400, 6_000)
    elif kind == "flat":
        units[:] = 0


def _write_records(root: Path, paths: list[str], subject: Ints, studies: Studies, units: npt.NDArray[np.int16]) -> None:
    """Headers and signals of WFDB format 16, leads in the order of the release."""
    units = units[:, FILE_ORDER]
    # WFDB stores the 16-bit sum of the samples as a signed number.
    checksums = units.sum(axis=2, dtype=np.int64).astype(np.int16)
    stamps = pd.DatetimeIndex(studies.time).strftime("%H:%M:%S %d/%m/%Y")
    for row, path in enumerate(paths):
        folder, name = (root / path).parent, studies.study_id[row]
        folder.mkdir(parents=True)
        (folder / f"{name}.dat").write_bytes(np.ascontiguousarray(units[row].T).tobytes())
        lines = [f"{name} {N_LEADS} {SAMPLING_RATE_HZ} {N_SAMPLES} {stamps[row]}"]
        for lead, initial, checksum in zip(FILE_ORDER, units[row, :, 0], checksums[row], strict=True):
            lines.append(f"{name}.dat 16 {UNITS_PER_MV}.0(0)/mV 16 0 {initial} {checksum} 0 {LEADS[lead]}")
        lines.append(f"# <subject_id>: {subject[row]}")
        (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")


def _write_index(root: Path, studies: Studies, subject: Ints, paths: list[str]) -> None:
    ids = {"subject_id": subject, "study_id": studies.study_id, "file_name": studies.study_id}
    table = pd.DataFrame({**ids, "ecg_time": _stamps(studies.time), "path": paths})
    table.to_csv(root / "record_list.csv", index=False)
    (root / "RECORDS").write_text("\n".join(paths) + "\n")


def _write_truth(root: Path, studies: Studies, subject: Ints, timeline: Timeline, damage: npt.NDArray[np.str_]) -> None:
    """What the simulator knows and no reader may use: for tests and figures."""
    table = pa.table(
        {
            "study_id": studies.study_id,
            "patient_id": subject,
            "age_years": studies.age,
            "sex_female": studies.female.astype(np.int8),
            "potassium_mmol": studies.potassium,
            "rhythm15": studies.rhythm.astype(np.int8),
            "rr_ms": timeline.median_rr_ms(),
            "r_peaks": pa.array(timeline.r_samples(), pa.list_(pa.int32())),
            "damage": damage.tolist(),
        }
    )
    pq.write_table(table, root / TRUTH)


def _stamps(time: npt.NDArray[np.datetime64]) -> npt.NDArray[np.str_]:
    return np.char.replace(np.datetime_as_string(time, unit="s"), "T", " ")


def _machine_measurements(
    rng: np.random.Generator, studies: Studies, subject: Ints, timeline: Timeline
) -> pd.DataFrame:
    """The 33 columns of machine_measurements.csv: statements, and intervals as a cart measures them."""
    n, traits, rr_ms = len(studies), studies.traits, timeline.median_rr_ms()
    statements = [_statements(rng, studies, timeline, row) for row in range(n)]
    table: dict[str, Any] = {"subject_id": subject, "study_id": studies.study_id}
    table["cart_id"] = rng.integers(6_800_000, 6_800_060, n)
    table["ecg_time"] = _stamps(studies.time)
    for i in range(REPORTS):
        table[f"report_{i}"] = [lines[i] if i < len(lines) else "" for lines in statements]
    narrow_band = rng.random(n) < 0.1
    table["bandwidth"] = np.where(narrow_band, "0.05-150 Hz", "0.005-150 Hz")
    table["filtering"] = np.where(narrow_band, "60 Hz notch", "60 Hz notch Baseline filter")
    dissociated = np.isin(studies.rhythm, (Rhythm.VENTRICULAR_TACHYCARDIA, Rhythm.SUPRAVENTRICULAR_TACHYCARDIA))
    no_p = ~np.isfinite(timeline.p).any(axis=1) | dissociated | (timeline.av_block == AVBlock.COMPLETE)
    wide = timeline.wide.mean(axis=1) > 0.5
    p_onset = np.full(n, 40)
    qrs_onset = p_onset + traits["pr_ms"]
    qrs_end = qrs_onset + np.where(wide, 150, traits["qrs_ms"])
    t_end = qrs_onset + traits["qtc_ms"] * np.cbrt(np.clip(rr_ms, 300, 1600) / 1000)
    times = np.stack([p_onset + traits["p_ms"], qrs_onset, qrs_end, t_end]) + rng.normal(0, 3.0, (4, n))
    p_end, qrs_onset, qrs_end, t_end = np.rint(times).astype(np.int64)
    table["rr_interval"] = np.rint(rr_ms).astype(np.int64)
    if n >= ONE_OF_EACH_FROM:
        table["rr_interval"][rng.choice(n, 2, replace=False)] = (65_535, 0)
    table["p_onset"] = np.where(no_p, NOT_MEASURABLE, p_onset)
    table["p_end"] = np.where(no_p | (rng.random(n) < 0.13), NOT_MEASURABLE, p_end)
    table["qrs_onset"], table["qrs_end"], table["t_end"] = qrs_onset, qrs_end, t_end
    ectopic = timeline.p_ectopic.mean(axis=1) > 0.5
    p_axis = np.where(ectopic, -60, 55) + rng.normal(0, 14, n)
    axis = np.where(wide, rng.uniform(-180, 180, n), traits["axis_deg"]) + rng.normal(0, 3, n)
    t_axis = np.where(wide, axis + 170, traits["t_axis_deg"] + 12) + rng.normal(0, 5, n)
    for name, value, missing in (("p", p_axis, no_p), ("qrs", axis, False), ("t", t_axis, False)):
        sentinel = missing | (rng.random(n) < 0.002)
        degrees = (np.rint(value).astype(np.int64) + 180) % 360 - 180
        table[f"{name}_axis"] = np.where(sentinel, rng.choice(NO_AXIS, n, p=[0.9, 0.1]), degrees)
    return pd.DataFrame(table)


def _rhythm_statement(rng: np.random.Generator, studies: Studies, timeline: Timeline, row: int) -> str:
    rhythm, rate = Rhythm(studies.rhythm[row]), studies.rate_bpm[row]
    match rhythm:
        case Rhythm.PACED:
            return rng.choice(["Ventricular pacing", "Pacemaker rhythm - no further analysis"], p=[0.7, 0.3])
        case Rhythm.VENTRICULAR_TACHYCARDIA:
            slow, fast = (
                ("Accelerated idioventricular", "Idioventricular"),
                ("Wide QRS tachycardia", "Ventricular tachycardia"),
            )
            return rng.choice(fast) if rate > 110 else f"{rng.choice(slow)} rhythm"
        case Rhythm.AV_BLOCK:
            return {
                AVBlock.WENCKEBACH: "Sinus rhythm with 2nd degree A-V block, Mobitz I (Wenckebach)",
                AVBlock.TWO_TO_ONE: "Sinus rhythm with 2:1 A-V block",
                AVBlock.COMPLETE: "Sinus rhythm with complete A-V block",
            }[AVBlock(timeline.av_block[row])]
        case Rhythm.FLUTTER:
            return rng.choice(["Atrial flutter", "Probable atrial flutter"])
        case Rhythm.FIBRILLATION:
            response = "rapid" if rate > 100 else "slow" if rate < 60 else ""
            return f"Atrial fibrillation with {response} ventricular response" if response else "Atrial fibrillation"
        case Rhythm.SUPRAVENTRICULAR_TACHYCARDIA:
            return rng.choice(["Supraventricular tachycardia", "Probable supraventricular tachycardia"])
        case Rhythm.JUNCTIONAL:
            return "Probable accelerated junctional rhythm" if rate > 60 else "Junctional rhythm"
        case Rhythm.ECTOPIC_ATRIAL:
            return rng.choice(["Possible ectopic atrial rhythm", "Ectopic atrial rhythm"], p=[0.8, 0.2])
        case Rhythm.VENTRICULAR_PREMATURE | Rhythm.ATRIAL_PREMATURE:
            kind = "PVC(s)" if rhythm == Rhythm.VENTRICULAR_PREMATURE else "PAC(s)"
            return f"Sinus tachycardia with {kind}" if rate > 100 else f"Sinus rhythm with {kind}"
        case Rhythm.FIRST_DEGREE_BLOCK if rate < 60:
            return "Sinus bradycardia with 1st degree A-V block"
        case Rhythm.FIRST_DEGREE_BLOCK:
            borderline = "borderline " if studies.traits["pr_ms"][row] < 220 else ""
            return f"Sinus rhythm with {borderline}1st degree A-V block"
        case _:
            return rhythm.name.replace("_", " ").capitalize()


def _statements(rng: np.random.Generator, studies: Studies, timeline: Timeline, row: int) -> list[str]:
    """The report of one ECG, line by line: decorated openers, the rhythm, findings, a verdict, blank cells between."""
    traits = {name: values[row] for name, values in studies.traits.items()}
    lines = [_rhythm_statement(rng, studies, timeline, row)]
    if studies.st_elevation[row]:
        lines.insert(0, "*** consider acute ST elevation MI ***")
    if studies.poor_quality[row]:
        lines.insert(0, "--- Warning: Data quality may affect interpretation ---")
    if rng.random() < 0.012:
        lines.insert(0, "Age not entered, assumed to be 50 years old for purpose of ECG interpretation")
    findings = {
        "Left axis deviation": traits["axis_deg"] < -20,
        "Right axis deviation": traits["axis_deg"] > 100,
        "Right bundle branch block": studies.right_bundle_block[row],
        "Prolonged QT interval": traits["qtc_ms"] > 455,
        "Low QRS voltages in limb leads": traits["log_qrs_gain"] < -0.4,
        "Lateral T wave changes are nonspecific": traits["log_t_gain"] < -0.5,
        "Possible left atrial abnormality": traits["log_p_left_gain"] > 0.5 and rng.random() < 0.5,
    }
    unspecific = studies.rhythm[row] in (Rhythm.PACED, Rhythm.VENTRICULAR_TACHYCARDIA)
    found = [] if unspecific else [line for line, present in findings.items() if present]
    abnormal = found or studies.rhythm[row] < Rhythm.SINUS_TACHYCARDIA
    verdict = "Abnormal ECG" if abnormal else rng.choice(["Normal ECG", "Borderline ECG"], p=[0.75, 0.25])
    blank = [""] * int(rng.integers(0, 2))
    lines = [*lines, *found, *blank, verdict]
    return [f"{line}." if line and rng.random() < 0.08 else str(line) for line in lines]


LAB_COLUMNS = ["itemid", "label", "fluid", "category", "unit", "low", "high"]
LAB_ITEMS: dict[str, tuple[int, str, str, str, str, float, float]] = {
    "serum": (50971, "Potassium", "Blood", "Chemistry", "mEq/L", 3.3, 5.1),
    "serum_other": (52610, "Potassium", "Blood", "Chemistry", "mEq/L", 3.5, 5.1),
    "whole_blood": (50822, "Potassium, Whole Blood", "Blood", "Blood Gas", "mEq/L", 3.3, 5.1),
    "whole_blood_other": (52452, "Potassium, Whole Blood", "Blood", "Blood Gas", "mEq/L", 3.5, 5.1),
    "creatinine": (50912, "Creatinine", "Blood", "Chemistry", "mg/dL", 0.5, 1.2),
    "sodium": (50983, "Sodium", "Blood", "Chemistry", "mEq/L", 133.0, 145.0),
    "urine": (51097, "Potassium, Urine", "Urine", "Chemistry", "mEq/L", 0.0, 0.0),
}


def _write_hosp(rng: np.random.Generator, root: Path, patients: Patients, studies: Studies) -> None:
    n, old = len(patients), patients.anchor_age > OLDEST_STORED_AGE
    first = rng.choice(np.arange(2008, 2021, 3), n)
    died = patients.anchor_year + rng.integers(4, 9, n)
    table = {
        "subject_id": patients.subject_id,
        "gender": np.where(patients.female, "F", "M"),
        "anchor_age": np.where(old, 91, patients.anchor_age),
        "anchor_year": patients.anchor_year,
        "anchor_year_group": [f"{year} - {year + 2}" for year in first],
        "dod": [f"{year}-06-15" if dead else "" for year, dead in zip(died, rng.random(n) < 0.08, strict=True)],
    }
    root.mkdir()
    _write_gzip(pd.DataFrame(table), root / "patients.csv.gz")
    _write_gzip(_lab_events(rng, patients, studies), root / "labevents.csv.gz")
    items = pd.DataFrame(LAB_ITEMS.values(), columns=LAB_COLUMNS)[LAB_COLUMNS[:4]]
    _write_gzip(items.sort_values("itemid"), root / "d_labitems.csv.gz")


def _write_gzip(table: pd.DataFrame, path: Path) -> None:
    # A time stamp in the gzip header would make two equal simulations differ.
    table.to_csv(path, index=False, compression={"method": "gzip", "mtime": 0, "compresslevel": 6})


def _lab_events(rng: np.random.Generator, patients: Patients, studies: Studies) -> pd.DataFrame:
    """The 16 columns of labevents, with values withheld, flags that are wrong and haemolysis at modest rates."""
    samples = draw_samples(rng, patients, studies)
    n, subject = len(samples.item), patients.subject_id[studies.patient[samples.study]]
    item = pd.DataFrame([LAB_ITEMS[name] for name in samples.item], columns=LAB_COLUMNS)
    ranged, value = item["high"].to_numpy() > 0, np.round(samples.value, 1)
    item.loc[item["itemid"].eq(50971) & (rng.random(n) < 0.3), "low"] = 3.5
    outside = ranged & ((value < item["low"]) | (value > item["high"])) ^ (ranged & (rng.random(n) < 0.015))
    withheld, silent = rng.random(n) < 0.02, rng.random(n) < 0.5
    grade = rng.choice(["SLIGHTLY", "MODERATELY", "GROSSLY"], n)
    warning = np.char.add(grade, " HEMOLYZED SPECIMEN.  HEMOLYSIS FALSELY ELEVATES K.")
    admission = pd.array(rng.integers(20_000_000, 30_000_000, n), dtype="Int64")
    admission[rng.random(n) < 0.35] = pd.NA
    table = pd.DataFrame(
        {
            "labevent_id": 0,
            "subject_id": subject,
            "hadm_id": admission,
            "specimen_id": rng.integers(1, 100_000_000, n),
            "itemid": item["itemid"],
            "order_provider_id": [f"P{i:05d}" if i % 3 else "" for i in rng.integers(0, 100_000, n)],
            "charttime": _stamps(samples.time),
            "storetime": _stamps(samples.time + rng.integers(20, 90, n).astype("timedelta64[m]")),
            "value": np.where(withheld, "___", value.astype(str)),
            "valuenum": np.where(withheld & silent, np.nan, value),
            "valueuom": item["unit"],
            "ref_range_lower": item["low"].where(ranged),
            "ref_range_upper": item["high"].where(ranged),
            "flag": np.where(outside, "abnormal", ""),
            "priority": rng.choice(["STAT", "ROUTINE", ""], n, p=[0.5, 0.4, 0.1]),
            "comments": np.where(samples.haemolysed, warning, ""),
        }
    ).sort_values(["subject_id", "charttime", "itemid"], kind="stable")
    return table.assign(labevent_id=np.arange(1, n + 1))
