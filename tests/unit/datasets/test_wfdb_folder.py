"""Any folder of WFDB records."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fsspec
import pytest

from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import STUDY_SCHEMA, DatasetError


def write_headers(root: Path) -> str:
    for name in ("b/2.hea", "a.hea", "b/c/3.hea", "b/3.dat"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def options(folder: Path, text: str) -> IndexOptions:
    (folder / "labels.csv").write_text(text)
    return IndexOptions(csv=str(folder / "labels.csv"))


def test_every_header_below_root_is_a_study_of_its_own_patient(tmp_path: Path) -> None:
    index = build_index("wfdb", write_headers(tmp_path))
    columns = index.table.to_pydict()
    assert columns["path"] == ["a", "b/2", "b/c/3"]
    assert columns["study_id"][1] == int(hashlib.sha256(b"b/2").hexdigest()[:16], 16) >> 1
    assert columns["patient_id"] == columns["study_id"]
    assert index.table.schema.equals(STUDY_SCHEMA)
    labels = ("rr_label_ms", "rr_source", "age_years", "sex_female", "rhythm15", "report0_15", "potassium_mmol")
    assert all(columns[name] == [None] * 3 for name in labels)


def test_a_folder_of_an_object_store() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/x/1.hea", b"")
    assert build_index("wfdb", "memory://bucket").table["path"].to_pylist() == ["x/1"]


def test_labels_from_a_csv_file(tmp_path: Path) -> None:
    text = (
        "path,patient_id,rr_label_ms,age_years,sex_female,potassium_mmol,potassium_abnormal,rhythm15,report0_15\n"
        "a,7,812.5,64,1,4.4,0,14,0\nb/2.hea,7,9999,101,,,,,\nb/c/3,,,,,,,,\n"
    )
    index = build_index("wfdb", write_headers(tmp_path), options=options(tmp_path, text))
    first, second, third = index.table.to_pylist()
    assert first["patient_id"] == second["patient_id"] == 7
    assert third["patient_id"] == third["study_id"]
    assert first["split"] == second["split"]
    assert (first["rr_label_ms"], first["rr_source"], first["age_years"], first["sex_female"]) == (812.5, "user", 64, 1)
    assert (first["potassium_mmol"], first["potassium_abnormal"]) == (pytest.approx(4.4), 0)
    assert (first["rhythm15"], first["report0_15"]) == (14, 0)
    assert second["path"] == "b/2"
    assert (second["rr_label_ms"], second["rr_source"], second["age_years"], second["sex_female"]) == (None,) * 4


def test_patients_may_have_names_and_splits_may_be_given(tmp_path: Path) -> None:
    text = "path,patient_id,split\na,anna,test\nb/2,anna,test\nb/c/3,ben,\n"
    first, second, third = build_index("wfdb", str(tmp_path), options=options(tmp_path, text)).table.to_pylist()
    assert first["patient_id"] == second["patient_id"] != third["patient_id"]
    assert first["split"] == second["split"] == "test"
    assert third["split"] in ("train", "validation", "test")


def test_the_same_path_twice_and_paths_outside_of_root_are_excluded(tmp_path: Path) -> None:
    index = build_index("wfdb", str(tmp_path), options=options(tmp_path, "path,age_years\na,50\na,60\n../b,40\n"))
    assert index.table["age_years"].to_pylist() == [50]
    assert [path for path, _ in index.excluded] == ["../b", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na\n", "unknown column 'file': allowed are path"),
        ("path,age\na,50\n", "unknown column 'age'"),
        ("age_years\n50\n", "no column 'path'"),
        ("path;age_years\na;50\n", "unknown column 'path;age_years'.*; separate columns by commas"),
        (
            "path,sex_female\na,woman\n",
            "sex_female is 'woman' in row 2, allowed are 0, 1, m, male, f, female or nothing$",
        ),
        ("path,sex_female\na,\nb,2\n", "sex_female is '2' in row 3, allowed are 0, 1, m"),
        (
            "path,rhythm15\na,15\n",
            "rhythm15 is '15' in row 2, allowed are 0, .*, 14, paced, .*, sinus rhythm or nothing",
        ),
        ("path,rhythm15\na,other\n", "rhythm15 is 'other' in row 2"),
        ("path,potassium_abnormal\na,0.5\n", "potassium_abnormal is '0.5' in row 2, allowed are 0, 1 or nothing"),
        ("path,age_years\na,old\n", "age_years is 'old' in row 2, allowed are numbers or nothing$"),
        ('path,age_years\na,"64,5"\n', "age_years is '64,5' in row 2, .* with a decimal point"),
        ("path,age_years\na,64,5\n", "Expected 2 columns, got 3.*Quote a cell that holds a comma"),
        ("path,split\na,training\n", "split is 'training' in row 2, allowed are train, validation, test"),
        ("path,patient_id,split\na,1,train\nb,1,test\n", "more than one split"),
        ("path,patient_id,split\na,1.0,train\nb,1,test\n", "more than one split"),
        ("path,age_years\n", "names no usable record"),
        ("", "is empty"),
    ],
)
def test_a_csv_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        build_index("wfdb", str(tmp_path), options=options(tmp_path, text))


def test_a_csv_file_of_another_encoding_or_that_is_not_there_says_so(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    for encoding, message in (("latin-1", "not UTF-8 text but Latin-1"), ("utf-16", "not UTF-8 text but UTF-16")):
        table.write_bytes("path,patient_id\na,J\u00fcrgen\n".encode(encoding))
        with pytest.raises(DatasetError, match=message) as error:
            build_index("wfdb", str(tmp_path), options=IndexOptions(csv=str(table)))
        assert "torn" not in str(error.value)
    with pytest.raises(DatasetError, match=r"gone\.csv is not there: check its name"):
        build_index("wfdb", str(tmp_path), options=IndexOptions(csv=str(tmp_path / "gone.csv")))


def test_classes_by_number_or_name(tmp_path: Path) -> None:
    text = (
        "path,sex_female,rhythm15,report0_15\n"
        "a,F,Sinus Rhythm,sinus  rhythm with pac(s)\nb,male,14.0,13\nc,1,PACED,Other\nd,NA,nan,\n"
    )
    rows = build_index("wfdb", str(tmp_path), options=options(tmp_path, text)).table.to_pylist()
    found = [(row["sex_female"], row["rhythm15"], row["report0_15"]) for row in rows]
    assert found == [(1, 14, 8), (0, 14, 13), (1, 0, 14), (None, None, None)]


def test_patients_without_a_name_are_no_patient_and_12_is_12_point_0(tmp_path: Path) -> None:
    given = ["", "NA", "nan", "NaN", " ", "12", "12.0", "012", "anna", " anna "]
    text = "path,patient_id\n" + "".join(f"r{i},{value}\n" for i, value in enumerate(given))
    rows = build_index("wfdb", str(tmp_path), options=options(tmp_path, text)).table.to_pylist()
    assert all(row["patient_id"] == row["study_id"] for row in rows[:5])
    assert [row["patient_id"] for row in rows[5:8]] == [12] * 3
    assert rows[8]["patient_id"] == rows[9]["patient_id"] != rows[8]["study_id"]


def test_records_without_a_split_follow_their_patient(tmp_path: Path) -> None:
    rows = "".join(f"p{i}a,{i},{split}\np{i}b,{i},\n" for i, split in enumerate(["test", "val", "Dev", "train"] * 5))
    table = build_index("wfdb", str(tmp_path), options=options(tmp_path, f"path,patient_id,split\n{rows}")).table
    expected = ["test", "validation", "validation", "train"] * 5
    assert table["split"].to_pylist() == [split for split in expected for _ in range(2)]


def test_a_record_and_its_matlab_file_are_one_study(tmp_path: Path) -> None:
    write_headers(tmp_path)
    (tmp_path / "alone.mat").touch()
    index = build_index("wfdb", str(tmp_path), options=options(tmp_path, "path\na\na.mat\nb/2.mat\nalone.mat\n"))
    assert index.table["path"].to_pylist() == ["a", "b/2", "alone.mat"]
    assert index.excluded == (("a", "the path is listed twice, the first row is kept"),)
    listed = build_index("wfdb", str(tmp_path)).table
    assert set(index.table["study_id"].to_pylist()) < set(listed["study_id"].to_pylist())


def test_hypo_and_hyper_follow_from_the_value(tmp_path: Path) -> None:
    text = "path,potassium_mmol\na,3.4\nb,3.5\nc,5.5\nd,\ne,99\n"
    rows = build_index("wfdb", str(tmp_path), options=options(tmp_path, text)).table.to_pylist()
    found = [(row["potassium_hypo"], row["potassium_hyper"]) for row in rows]
    assert found == [(1, 0), (0, 0), (0, 1), (None, None), (None, None)]


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no WFDB header"):
        build_index("wfdb", str(tmp_path))


def test_what_looks_like_a_record_and_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_headers(tmp_path)
    for name in ("b/X.HEA", "b/X.dat", "alone.dat", "c.MAT", "other.dat", "a.dat", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "a.hea").write_text("a 1 500 5000\nother.dat 16 200/mV 16 0 0 0 0 I\n")
    (tmp_path / "gone").symlink_to("nowhere")
    index = build_index("wfdb", str(tmp_path))
    assert index.table["path"].to_pylist() == ["a", "b/2", "b/c/3"]
    assert dict(index.excluded) == {
        "alone": "its signal file .dat has no header .hea beside it",
        "b/3": "its signal file .dat has no header .hea beside it",
        "b/X": "its file extension .HEA is not in lower case: rename it to .hea",
        "c": "its file extension .MAT is not in lower case: rename it to .mat",
        "gone": "a link that leads nowhere",
    }
    assert index.funnel == (("files found", 8), ("with a safe path and an id of their own", 3))


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_headers(root)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "9.hea").touch()
    (root / "a_link_inside").symlink_to(root / "b", target_is_directory=True)
    (root / "one").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "two").symlink_to(tmp_path / "elsewhere" / "deep", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(root, target_is_directory=True)
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    index = build_index("wfdb", str(root))
    assert index.table["path"].to_pylist() == ["a", "b/2", "b/c/3", "one/deep/9"]
    assert ("up", "a link to a folder that holds the whole dataset is not searched") in index.excluded


def test_a_folder_without_a_readable_record_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "X.HEA").touch()
    with pytest.raises(DatasetError, match=r"no \*\.mat that can be read \(X: its file extension \.HEA"):
        build_index("wfdb", str(tmp_path))
