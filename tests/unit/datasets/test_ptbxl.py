"""The reader of PTB-XL."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import DatasetError

PTBXL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "ptbxl"

HEADER = "ecg_id,patient_id,age,sex,recording_date,report,scp_codes,strat_fold,filename_lr,filename_hr\n"
ROWS = (
    "1,15709.0,56.0,1,1984-11-09 09:17:34,\"sinus\nzweite zeile\",\"{'NORM': 100.0, 'SR': 0.0}\",3,"
    "records100/1_lr,records500/1_hr\n"
    "2,13243.0,300.0,0,,,\"{'AFIB': 0.0}\",9,records100/2_lr,records500/2_hr\n"
    "3,13244.0,,,,,{},10,records100/3_lr,records500/3_hr\n"
    "4,13244.0,12,0,,,\"{'NORM': 80.0}\",10,records100/4_lr,records500/4_hr\n"
)


def write(root: Path, text: str = HEADER + ROWS) -> str:
    (root / "ptbxl_database.csv").write_text(text)
    return str(root)


def test_labels_and_folds(tmp_path: Path) -> None:
    index = build_index("ptbxl", write(tmp_path))
    columns = index.table.to_pydict()
    assert index.source == "ptbxl"
    assert columns["study_id"] == [1, 2, 3, 4]
    assert columns["patient_id"] == [15709, 13243, 13244, 13244]
    assert columns["split"] == ["train", "validation", "test", "test"]
    assert columns["age_years"] == [56, None, None, None]
    assert columns["sex_female"] == [1, 0, None, 0]
    assert columns["rhythm15"] == [14, 4, None, None]
    assert columns["path"][0] == "records500/1_hr"
    assert columns["rr_source"] == ["detected"] * 4
    assert columns["ecg_time"] == [datetime(1984, 11, 9, 9, 17, 34), None, None, None]
    for name in ("rr_label_ms", "report0_15", "potassium_mmol", "potassium_abnormal", "cart_id"):
        assert columns[name] == [None] * 4


def test_a_lower_test_fold_keeps_the_higher_ones_closed(tmp_path: Path) -> None:
    index = build_index("ptbxl", write(tmp_path), options=IndexOptions(test_fold=9))
    assert index.table["study_id"].to_pylist() == [1, 2]
    assert index.table["split"].to_pylist() == ["train", "test"]
    assert index.excluded == (
        ("records500/3_hr", "in a fold above test_fold 9"),
        ("records500/4_hr", "in a fold above test_fold 9"),
    )


def test_rr_intervals_of_ptbxl_plus(tmp_path: Path) -> None:
    features = tmp_path / "features.csv"
    features.write_text("ecg_id,RR_Mean_Global,RR_StdDev_Global\n1,812.5,3\n2,99999,1\n9,700,1\n")
    rows = build_index("ptbxl", write(tmp_path), options=IndexOptions(rr_features=str(features))).table.to_pylist()
    assert [row["rr_label_ms"] for row in rows] == [812.5, None, None, None]
    assert [row["rr_source"] for row in rows] == ["ptb-xl+", None, None, None]
    features.write_text("ecg_id,RR_Mean_Global\n77,812.5\n")
    with pytest.raises(DatasetError, match=r"for none of the records: is it a feature table of PTB-XL\+"):
        build_index("ptbxl", write(tmp_path), options=IndexOptions(rr_features=str(features)))


def test_the_100_hz_version(tmp_path: Path) -> None:
    index = build_index("ptbxl", write(tmp_path), options=IndexOptions(sampling_rate=100))
    assert index.table["path"].to_pylist()[0] == "records100/1_lr"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{'AFIB': 0.0}", "{'AFIB': ", "scp_codes .* is no dictionary"),
        ("{'AFIB': 0.0}", "__import__('os').getcwd()", "scp_codes .* is no dictionary"),
        ("{'AFIB': 0.0}", "['AFIB']", "scp_codes .* is no dictionary"),
        (",9,records", ",11,records", "ecg_id 2 has strat_fold 11"),
        ("strat_fold", "fold", "no column 'strat_fold'"),
        ("13243.0", "", "row 3 has no patient_id"),
        ("56.0", "old", "cannot be read.*old"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    root = write(tmp_path, (HEADER + ROWS).replace(old, new))
    with pytest.raises(DatasetError, match=message):
        build_index("ptbxl", root)


@pytest.mark.real_data
@pytest.mark.skipif(not PTBXL.is_dir(), reason="ptbxl is not in ../shared/data")
def test_the_real_table() -> None:
    table = build_index("ptbxl", str(PTBXL)).table
    assert len(table) == 1400
    assert len(set(table["patient_id"].to_pylist())) == 1355
    ages = table["age_years"].drop_null().to_numpy()
    assert ages.min() >= 18
    assert ages.max() <= 89
    patients: dict[int, set[str]] = {}
    for patient, split in zip(table["patient_id"].to_pylist(), table["split"].to_pylist(), strict=True):
        patients.setdefault(patient, set()).add(split)
    assert all(len(splits) == 1 for splits in patients.values())
    assert table["ecg_time"].null_count == 0
    rhythms = Counter(table["rhythm15"].to_pylist())
    assert rhythms.most_common(1)[0][0] == 14
    assert not {1, 6} & set(rhythms)  # ventricular tachycardia and junctional are not coded in PTB-XL
    assert all((PTBXL / f"{path}.hea").is_file() for path in np.array(table["path"].to_pylist())[::50])
