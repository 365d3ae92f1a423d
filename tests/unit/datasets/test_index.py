"""Faults of a dataset as a whole: each message names the file or option and what to do."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import DatasetError
from ecgmoe.datasets.tables import find_table

RECORDS = "subject_id,study_id,file_name,ecg_time,path\n1,41,41,2180-07-23 08:44:00,files/41\n"
REPORTS = ",".join(f"report_{line}" for line in range(18))
MACHINE = (
    f"subject_id,study_id,cart_id,ecg_time,{REPORTS},rr_interval\n"
    f"1,41,6,2180-07-23 08:44:00,Sinus rhythm{',' * 17},800\n"
)


def write(root: Path, records: str = RECORDS, machine: str = MACHINE) -> str:
    (root / "record_list.csv").write_text(records)
    (root / "machine_measurements.csv").write_text(machine)
    return str(root)


@pytest.mark.parametrize("dataset", ["simulated", "mimic-iv-ecg", "ptbxl", "ludb", "cinc2021", "wfdb"])
def test_a_missing_root_is_named(tmp_path: Path, dataset: Any) -> None:
    with pytest.raises(DatasetError, match=r"root .*nowhere is not a folder"):
        build_index(dataset, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("dataset", "table"),
    [
        ("simulated", "record_list.csv"),
        ("mimic-iv-ecg", "record_list.csv"),
        ("ptbxl", "ptbxl_database.csv"),
        ("ludb", "ludb.csv"),
    ],
)
def test_an_empty_folder_is_named(tmp_path: Path, dataset: Any, table: str) -> None:
    with pytest.raises(DatasetError, match=f"{table}.* is not in"):
        build_index(dataset, str(tmp_path))


@pytest.mark.parametrize(
    ("records", "machine", "message"),
    [
        (
            RECORDS.replace("path", "file"),
            MACHINE,
            r"record_list\.csv has no column 'path'; its columns are subject_id",
        ),
        (RECORDS, MACHINE.replace("report_7", "r7"), r"machine_measurements\.csv has no column 'report_7'"),
        (RECORDS + "1,42,42", MACHINE, r"record_list\.csv cannot be read.*Expected 5 columns"),
        (
            RECORDS + "1,x,42,2180-07-23 08:44:00,files/42\n",
            MACHINE,
            r"record_list\.csv cannot be read.*int64.*Correct that cell, or leave it empty",
        ),
        (RECORDS + "1,42,42,yesterday,files/42\n", MACHINE, r"record_list\.csv cannot be read.*yesterday"),
        (RECORDS + "1,,42,2180-07-23 08:44:00,files/42\n", MACHINE, "row 3 has no study_id"),
        (RECORDS.splitlines()[0] + "\n", MACHINE, "names no usable record"),
        ("", MACHINE, r"record_list\.csv is empty"),
        (RECORDS, "", r"machine_measurements\.csv is empty"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, records: str, machine: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        build_index("mimic-iv-ecg", write(tmp_path, records, machine))


def test_a_torn_archive_is_named(tmp_path: Path) -> None:
    root = write(tmp_path)
    (tmp_path / "record_list.csv").unlink()
    content = gzip.compress(
        (RECORDS + "".join(f"1,{i},{i},2180-07-23 08:44:00,files/{i * 7919}\n" for i in range(9999))).encode()
    )
    (tmp_path / "record_list.csv.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=r"record_list\.csv\.gz cannot be read"):
        build_index("mimic-iv-ecg", root)
    (tmp_path / "record_list.csv.gz").write_bytes(content)
    assert len(build_index("mimic-iv-ecg", root).table) == 10_000 - 1  # one id is there twice


def test_missing_hospital_tables_are_named(tmp_path: Path) -> None:
    root = write(tmp_path)
    with pytest.raises(DatasetError, match=r"hosp .*nowhere is not a folder"):
        build_index("mimic-iv-ecg", root, str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match=r"patients\.csv \(or patients\.csv\.gz\) is not in"):
        build_index("mimic-iv-ecg", root, str(tmp_path))


def test_tables_of_an_object_store() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/mimic/record_list.csv.gz", gzip.compress(RECORDS.encode()))
    memory.pipe_file("/mimic/machine_measurements.csv", MACHINE.encode())
    assert build_index("mimic-iv-ecg", "memory://mimic").table["rr_label_ms"].to_pylist() == [800]
    assert find_table("memory://mimic", "patients.csv") is None


@pytest.mark.parametrize(
    ("dataset", "hosp", "options", "message"),
    [
        (
            "mimic",
            None,
            {},
            "unknown dataset 'mimic': choose one of simulated, mimic-iv-ecg, ptbxl, ludb, cinc2021, wfdb",
        ),
        ("ptbxl", ".", {}, "hosp belongs to MIMIC-IV"),
        ("wfdb", ".", {}, "hosp belongs to MIMIC-IV"),
        ("ludb", ".", {}, "hosp belongs to MIMIC-IV"),
        ("cinc2021", None, {"sampling_rate": 100}, "would ignore sampling_rate"),
        ("ptbxl", None, {"split_seed": 1}, "would ignore split_seed"),
        ("ptbxl", None, {"csv": "x.csv"}, "would ignore csv"),
        ("mimic-iv-ecg", None, {"sampling_rate": 100}, "would ignore sampling_rate"),
        ("wfdb", None, {"potassium_window_minutes": 30.0}, "would ignore potassium_window_minutes"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    tmp_path: Path, dataset: Any, hosp: str | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_index(dataset, str(tmp_path), hosp, options=IndexOptions(**options))
