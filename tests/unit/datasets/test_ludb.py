"""The reader of LUDB."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
import wfdb

from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import SPLITS, STUDY_SCHEMA, DatasetError
from ecgmoe.ecg.marks import read_qrs_marks
from ecgmoe.ecg.record import RecordFault
from ecgmoe.ecg.rhythm import TAXONOMIES
from external_records import BEATS, write_ludb, write_marks

RHYTHM = TAXONOMIES["rhythm15"]


def test_labels(tmp_path: Path) -> None:
    rows = [
        {},
        {"Sex": "M\n", "Age": ">89\n", "Rhythms": "Sinus bradycardia"},
        {"Sex": "", "Age": "17\n", "Rhythms": "Irregular sinus rhythm"},
        {"Sex": "M", "Age": "", "Rhythms": ""},
    ]
    index = build_index("ludb", write_ludb(tmp_path, rows, waveforms=False))
    columns = index.table.to_pydict()
    assert index.source == "ludb"
    assert index.table.schema.equals(STUDY_SCHEMA)
    assert columns["study_id"] == columns["patient_id"] == [1, 2, 3, 4]
    assert columns["path"] == ["data/1", "data/2", "data/3", "data/4"]
    assert columns["sex_female"] == [1, 0, None, 0]
    assert columns["age_years"] == [51, None, None, None]
    assert columns["rhythm15"] == [14, 12, None, None]
    assert columns["rr_label_ms"] == [800] * 4
    assert columns["rr_source"] == ["annotated"] * 4
    assert index.unmapped == (("Irregular sinus rhythm", 1),)
    for name in ("potassium_mmol", "potassium_abnormal", "report0_15", "ecg_time", "rhythm15_hedged"):
        assert columns[name] == [None] * 4


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"Rhythms": "Sinus rhythm"}, "sinus rhythm"),
        ({"Rhythms": "Sinus arrhythmia"}, "sinus arrhythmia"),
        ({"Rhythms": "Sinus tachycardia"}, "sinus tachycardia"),
        ({"Rhythms": "Sinus arrhythmia\nWandering atrial pacemaker"}, "ectopic atrial"),
        ({"Rhythms": "Atrial fibrillation\nAberrant conduction"}, "atrial fibrillation"),
        ({"Rhythms": "Atrial flutter, typical"}, "atrial flutter"),
        ({"Conduction abnormalities": "Incomplete left bundle branch block\nI degree av block"}, "1st degree AV block"),
        ({"Conduction abnormalities": "Iii degree av-block"}, "2nd or 3rd degree AV block"),
        ({"Conduction abnormalities": "Incomplete right bundle branch block"}, "sinus rhythm"),
        (
            {"Conduction abnormalities": "Iii degree av-block", "Cardiac pacing": "Bipolar ventricular pacing"},
            "paced",
        ),
        ({"Cardiac pacing": "Pacemaker presence, undefined\nP-synchrony"}, "paced"),
        (
            {"Extrasystolies": "Atrial extrasystole: low atrial\nAtrial extrasystole, type: single pac"},
            "atrial premature",
        ),
        ({"Extrasystolies": "Ventricular extrasystole, type: couplet"}, "ventricular premature"),
        (
            {"Rhythms": "Irregular sinus rhythm", "Extrasystolies": "Atrial extrasystole, type: bigemini"},
            "atrial premature",
        ),
        ({"Rhythms": "Atrial fibrillation", "Extrasystolies": "Ventricular extrasystole"}, "atrial fibrillation"),
    ],
)
def test_the_first_class_over_all_columns_wins(tmp_path: Path, row: dict[str, str], expected: str) -> None:
    (label,) = build_index("ludb", write_ludb(tmp_path, [row], waveforms=False)).table["rhythm15"].to_pylist()
    assert RHYTHM[label] == expected


def test_what_names_no_class_is_counted(tmp_path: Path) -> None:
    block = "Incomplete right bundle branch block"
    rows = [{"Conduction abnormalities": f"Left anterior hemiblock\n{block}"}, {"Conduction abnormalities": block}]
    index = build_index("ludb", write_ludb(tmp_path, rows, waveforms=False))
    assert index.unmapped == ((block, 2), ("Left anterior hemiblock", 1))


def test_marks_are_people_s_and_rr_is_their_median(tmp_path: Path) -> None:
    write_ludb(tmp_path, [{}], waveforms=False)
    assert read_qrs_marks(f"{tmp_path}/data/1", "ii").tolist() == BEATS.tolist()
    # One long interval, as after a beat that comes too early, does not move it.
    write_marks(tmp_path / "data", "1", np.array([600, 1000, 1400, 2200, 2600]))
    assert build_index("ludb", str(tmp_path)).table["rr_label_ms"].to_pylist() == [800]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.unlink(), r"1\.ii cannot be read: no such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-3]), r"1\.ii is torn"),
        (lambda file: file.write_bytes(file.read_bytes()[:40]), r"1\.ii is torn"),
        (lambda file: file.write_bytes(b""), r"1\.ii is torn"),
        (lambda file: file.write_bytes(bytes.fromhex("9aef0000")), r"wfdb cannot read 1\.ii"),
    ],
)
def test_a_record_without_marks_stays_without_rr(tmp_path: Path, damage: object, reason: str) -> None:
    root = write_ludb(tmp_path, [{}, {}], waveforms=False)
    damage(tmp_path / "data" / "1.ii")  # type: ignore[operator]
    with pytest.raises(RecordFault, match=reason):
        read_qrs_marks(f"{root}/data/1", "ii")
    with pytest.warns(UserWarning, match=f"1 of 2 records stay without RR: {reason}"):
        index = build_index("ludb", root)
    assert index.table["rr_label_ms"].to_pylist() == [None, 800]
    assert index.table["rr_source"].to_pylist() == [None, "annotated"]
    assert index.table["rhythm15"].to_pylist() == [14, 14]


def test_fewer_than_two_marks_are_no_interval(tmp_path: Path) -> None:
    root = write_ludb(tmp_path, [{}, {}], waveforms=False)
    write_marks(tmp_path / "data", "1", np.array([600]))
    (tmp_path / "data" / "2.ii").write_bytes(bytes(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build_index("ludb", root).table["rr_label_ms"].to_pylist() == [None, None]


def test_marks_of_an_object_store(tmp_path: Path) -> None:
    write_ludb(tmp_path, [{}], waveforms=False)
    memory = fsspec.filesystem("memory")
    for name in ("ludb.csv", "data/1.ii"):
        memory.pipe_file(f"/ludb/{name}", (tmp_path / name).read_bytes())
    assert build_index("ludb", "memory://ludb").table["rr_label_ms"].to_pylist() == [800]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"51\n"', '"old\n"', r"ludb\.csv: Age is 'old' in row 2, expected years or >89"),
        ('"51\n"', '"5 1"', "Age is '5 1' in row 2"),
        ("Rhythms", "Rhythm", "no column 'Rhythms'"),
        ('"1"', '"one"', "cannot be read.*one"),
        ('"1"', '""', "row 2 has no study_id"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    root = write_ludb(tmp_path, [{}], waveforms=False)
    table = tmp_path / "ludb.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DatasetError, match=message):
        build_index("ludb", root)


def test_splits_are_drawn_and_options_of_other_datasets_refused(tmp_path: Path) -> None:
    root = write_ludb(tmp_path, [{}] * 40, waveforms=False)
    splits = build_index("ludb", root).table["split"].to_pylist()
    assert set(splits) <= set(SPLITS)
    assert splits != build_index("ludb", root, options=IndexOptions(split_seed=1)).table["split"].to_pylist()
    only_test = IndexOptions(split_shares=(0.01, 0.0, 0.99))
    assert Counter(build_index("ludb", root, options=only_test).table["split"].to_pylist())["test"] >= 38
    with pytest.raises(ValueError, match="would ignore test_fold"):
        build_index("ludb", root, options=IndexOptions(test_fold=9))


@pytest.mark.real_data
def test_the_real_table(shared_data: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = build_index("ludb", str(shared_data / "ludb"))
    columns = index.table.to_pydict()
    assert len(index.table) == 120
    assert index.excluded == ()
    assert Counter(columns["sex_female"]) == {0: 69, 1: 51}
    ages = [age for age in columns["age_years"] if age is not None]
    # One of ">89", three of under 18 years.
    assert (len(ages), min(ages), max(ages)) == (116, 18, 88)
    assert {RHYTHM[label]: count for label, count in Counter(columns["rhythm15"]).items()} == {
        "paced": 5,
        "atrial flutter": 2,
        "atrial fibrillation": 8,
        "ectopic atrial": 1,
        "ventricular premature": 1,
        "atrial premature": 5,
        "1st degree AV block": 6,
        "sinus tachycardia": 2,
        "sinus bradycardia": 14,
        "sinus arrhythmia": 4,
        "sinus rhythm": 72,
    }
    assert Counter(columns["rr_source"]) == {"annotated": 120}
    # The lead that was chosen is as good as any: over all twelve the median is the same within a few ms.
    leads = ("i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6")
    differences = []
    for path, rr in list(zip(columns["path"], columns["rr_label_ms"], strict=True))[::6]:
        medians = []
        for lead in leads:
            marks = wfdb.rdann(str(shared_data / "ludb" / path), lead)
            medians.append(2 * np.median(np.diff(marks.sample[np.array(marks.symbol) == "N"])))
        differences.append(abs(rr - np.median(medians)))
    assert max(differences) <= 5
