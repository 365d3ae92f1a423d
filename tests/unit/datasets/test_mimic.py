"""The reader of MIMIC-IV-ECG, on a small folder with the release's own columns and traps."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import STUDY_SCHEMA, DatasetError
from ecgmoe.ecg.rhythm import TAXONOMIES

SCHEMA_ROWS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "mimic-iv-ecg-schema"

REPORTS = [f"report_{line}" for line in range(18)]
MEASUREMENTS = ["rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis"]
MACHINE_COLUMNS = ["subject_id", "study_id", "cart_id", "ecg_time", *REPORTS, "bandwidth", "filtering", *MEASUREMENTS]
LAB_COLUMNS = ["labevent_id", "subject_id", "hadm_id", "specimen_id", "itemid", "order_provider_id", "charttime"]
LAB_COLUMNS += [
    "storetime",
    "value",
    "valuenum",
    "valueuom",
    "ref_range_lower",
    "ref_range_upper",
    "flag",
    "priority",
    "comments",
]


def csv_text(columns: list[str], rows: list[dict[str, Any]]) -> str:
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
    return "\n".join(lines) + "\n"


def path_of(study: int) -> str:
    return f"files/p1000/p10000001/s{study}/{study}"


def write_ecgs(root: Path, studies: list[dict[str, Any]]) -> None:
    """Tables of ECGs; `reports` holds the first statements of each."""
    records = [
        {"subject_id": 10000001, "ecg_time": "2180-07-23 08:44:00", "path": path_of(s["study_id"]), **s}
        for s in studies
    ]
    records = [{**row, "file_name": row["study_id"]} for row in records]
    columns = ["subject_id", "study_id", "file_name", "ecg_time", "path"]
    (root / "record_list.csv").write_text(csv_text(columns, records))
    machine = [
        {
            "cart_id": 6848296,
            "rr_interval": 800,
            **row,
            **dict(zip(REPORTS, row.get("reports", ["Sinus rhythm"]), strict=False)),
        }
        for row in records
    ]
    (root / "machine_measurements.csv").write_text(csv_text(MACHINE_COLUMNS, machine))


def write_hosp(folder: Path, patients: list[dict[str, Any]], labs: list[dict[str, Any]] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    columns = ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"]
    with gzip.open(folder / "patients.csv.gz", "wt") as file:
        file.write(csv_text(columns, patients))
    if labs is not None:
        (folder / "labevents.csv").write_text(
            csv_text(LAB_COLUMNS, [{"labevent_id": i, **lab} for i, lab in enumerate(labs)])
        )


def index_rows(root: Path, **options: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = build_index("mimic-iv-ecg", str(root), **options).table.to_pylist()
    return rows


def test_tables_alone(tmp_path: Path) -> None:
    write_ecgs(
        tmp_path,
        [
            {"study_id": 41, "reports": ["Sinus rhythm", "", "Prolonged PR interval"]},
            {"study_id": 42, "subject_id": 10000002, "reports": ["*** consider acute ST elevation MI ***"]},
            {"study_id": 43, "reports": [""]},
        ],
    )
    index = build_index("mimic-iv-ecg", str(tmp_path))
    assert index.table.schema.equals(STUDY_SCHEMA)
    assert index.source == "mimic-iv-ecg"
    assert index.excluded == ()
    first, second, third = index.table.to_pylist()
    assert first["patient_id"] == 10000001
    assert first["path"] == path_of(41)
    assert (first["rr_label_ms"], first["rr_source"]) == (800, "machine")
    assert first["cart_id"] == 6848296
    assert TAXONOMIES["report0_15"][first["report0_15"]] == "sinus rhythm"
    assert TAXONOMIES["rhythm15"][first["rhythm15"]] == "1st degree AV block"
    assert (second["report0_15"], second["rhythm15"]) == (10, None)
    assert (third["report0_15"], third["rhythm15"]) == (None, None)
    assert first["split"] == third["split"]
    hospital = ("age_years", "sex_female", "potassium_mmol", "potassium_abnormal", "potassium_gap_minutes")
    assert all(row[name] is None for row in (first, second, third) for name in hospital)


@pytest.mark.parametrize(
    ("value", "expected"), [(200, 200), (3000, 3000), *((masked, None) for masked in (199, 0, 29999, 65535, ""))]
)
def test_rr_sentinels_are_masked(tmp_path: Path, value: object, expected: float | None) -> None:
    write_ecgs(tmp_path, [{"study_id": 41, "rr_interval": value}, {"study_id": 42}])
    row = index_rows(tmp_path)[0]
    assert row["rr_label_ms"] == expected
    assert row["rr_source"] == (None if expected is None else "machine")


def test_a_study_without_measurements_has_no_labels(tmp_path: Path) -> None:
    write_ecgs(tmp_path, [{"study_id": 41}, {"study_id": 42}])
    table = tmp_path / "machine_measurements.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:2]) + "\n")
    first, second = index_rows(tmp_path)
    assert first["rr_label_ms"] == 800
    assert {second[name] for name in ("rr_label_ms", "rr_source", "report0_15", "rhythm15", "cart_id")} == {None}


def test_unsafe_paths_and_duplicates_are_excluded_with_a_reason(tmp_path: Path) -> None:
    unsafe = ["../../etc/passwd", "/etc/passwd", "files/../../x", "s3://other/bucket", "c:\\x", ""]
    studies: list[dict[str, Any]] = [{"study_id": 41}, {"study_id": 41, "path": "files/again"}]
    studies += [{"study_id": 50 + i, "path": path} for i, path in enumerate(unsafe)]
    write_ecgs(tmp_path, studies)
    index = build_index("mimic-iv-ecg", str(tmp_path))
    assert index.table["path"].to_pylist() == [path_of(41)]
    reasons = dict(index.excluded)
    assert reasons.pop("files/again") == "duplicate study_id 41, the first row is kept"
    assert set(reasons) == set(unsafe)
    assert set(reasons.values()) == {"the path is not a relative path under root"}


def test_age_and_sex(tmp_path: Path) -> None:
    patients = [(1, "F", 60, 2175), (2, "M", 91, 2180), (3, "", 89, 2179), (4, "M", 17, 2180), (5, "M", 89, 2180)]
    write_hosp(
        tmp_path / "hosp",
        [{"subject_id": s, "gender": g, "anchor_age": a, "anchor_year": y} for s, g, a, y in patients],
    )
    write_ecgs(tmp_path, [{"study_id": 40 + subject, "subject_id": subject} for subject in range(1, 7)])
    with pytest.warns(UserWarning, match=r"no labevents\.csv"):
        rows = index_rows(tmp_path, hosp=str(tmp_path / "hosp"))
    assert [row["age_years"] for row in rows] == [65, None, None, None, 89, None]
    assert [row["sex_female"] for row in rows] == [1, 0, None, 0, 0, None]


def lab(time: str, value: object, item: int = 50971, **more: Any) -> dict[str, Any]:
    row = {"subject_id": 10000001, "itemid": item, "charttime": f"2180-07-23 {time}", "valuenum": value}
    return {**row, "ref_range_lower": 3.3, "ref_range_upper": 5.1, **more}


@pytest.mark.parametrize(
    ("labs", "expected"),
    [
        ([lab("08:14:00", 4.0), lab("09:04:00", 5.2)], (5.2, 1, 20)),
        ([lab("08:24:00", 4.0), lab("09:14:00", 5.2)], (4.0, 0, -20)),
        ([lab("08:44:00", 6.0, 50822), lab("09:40:00", 4.0, 52610)], (4.0, 0, 56)),
        ([lab("08:44:00", 6.0, 52452)], (6.0, 1, 0)),
        ([lab("09:44:00", 4.0)], (4.0, 0, 60)),
        ([lab("09:45:00", 4.0)], None),
        ([lab("08:44:00", 4.0, 50983)], None),
        ([lab("08:44:00", 4.0, subject_id=10000009)], None),
        ([lab("08:44:00", 1.5), lab("08:44:00", 10.0), lab("08:44:00", "")], None),
        ([lab("08:44:00", 7.0, comments="MODERATELY HEMOLYZED SPECIMEN")], None),
        ([lab("08:44:00", 7.0, comments="Haemolysis falsely elevates this result.")], None),
        ([lab("08:44:00", 7.0, comments="HEMOLYZED"), lab("09:00:00", 3.2)], (3.2, 1, 16)),
        ([lab("08:44:00", 4.0, flag="abnormal")], (4.0, 0, 0)),
        ([lab("08:44:00", 5.1)], (5.1, 0, 0)),
        ([lab("08:44:00", 4.0, ref_range_lower="", ref_range_upper="", flag="abnormal")], (4.0, 1, 0)),
        ([lab("08:44:00", 4.0, ref_range_lower="", ref_range_upper="")], (4.0, 0, 0)),
        ([{**lab("08:44:00", 4.0), "charttime": ""}], None),
        ([], None),
    ],
)
def test_potassium(tmp_path: Path, labs: list[dict[str, Any]], expected: tuple[float, int, float] | None) -> None:
    write_ecgs(tmp_path, [{"study_id": 41}])
    write_hosp(
        tmp_path / "hosp", [{"subject_id": 10000001, "gender": "F", "anchor_age": 60, "anchor_year": 2180}], labs
    )
    row = index_rows(tmp_path, hosp=str(tmp_path / "hosp"))[0]
    found = (row["potassium_mmol"], row["potassium_abnormal"], row["potassium_gap_minutes"])
    assert found == (pytest.approx(expected) if expected else (None, None, None))


@pytest.mark.parametrize(
    ("labs", "expected"),
    [
        ([lab("09:00:00", 5.6)], (50971, 3.3, 5.1, "range", 0, 1)),
        ([lab("09:00:00", 3.4, 52452)], (52452, 3.3, 5.1, "range", 1, 0)),
        ([lab("09:00:00", 4.0, ref_range_upper="", flag="abnormal")], (50971, 3.3, None, "flag", 0, 0)),
        ([lab("09:00:00", 3.0, ref_range_upper="", flag="abnormal")], (50971, 3.3, None, "range", 1, 0)),
        ([], (None, None, None, None, None, None)),
    ],
)
def test_where_a_potassium_label_comes_from(tmp_path: Path, labs: list[dict[str, Any]], expected: tuple[Any]) -> None:
    write_ecgs(tmp_path, [{"study_id": 41}])
    write_hosp(
        tmp_path / "hosp", [{"subject_id": 10000001, "gender": "F", "anchor_age": 60, "anchor_year": 2180}], labs
    )
    row = index_rows(tmp_path, hosp=str(tmp_path / "hosp"))[0]
    names = ("itemid", "ref_low", "ref_high", "abnormal_by", "hypo", "hyper")
    found = [row[f"potassium_{name}"] for name in names]
    assert [round(value, 4) if isinstance(value, float) else value for value in found] == list(expected)


def test_the_line_that_gave_the_rhythm(tmp_path: Path) -> None:
    write_ecgs(tmp_path, [{"study_id": 41, "reports": ["Sinus rhythm", "", "Ventricular pacing"]}])
    row = index_rows(tmp_path)[0]
    assert (row["rhythm15"], row["rhythm15_line"], row["rhythm15_hedged"]) == (0, 2, False)
    assert row["ecg_time"].isoformat() == "2180-07-23T08:44:00"


@pytest.mark.parametrize(
    ("hedged", "expected"), [("use", (7, 0, True)), ("skip", (14, 1, False)), ("mask", (None, 0, True))]
)
def test_hedged_statements_are_an_option(tmp_path: Path, hedged: Any, expected: tuple[int | None, int, bool]) -> None:
    write_ecgs(tmp_path, [{"study_id": 41, "reports": ["Possible ectopic atrial rhythm", "Sinus rhythm"]}])
    row = index_rows(tmp_path, options=IndexOptions(hedged_statements=hedged))[0]
    assert (row["rhythm15"], row["rhythm15_line"], row["rhythm15_hedged"]) == expected


def test_all_labels_are_given_again_from_another_place(tmp_path: Path) -> None:
    """Gzipped and in an object store, the tables give the index that the plain files on the disk gave."""
    write_ecgs(tmp_path, [{"study_id": 41}, {"study_id": 42, "subject_id": 10000002}])
    patient = {"subject_id": 10000001, "gender": "F", "anchor_age": 60, "anchor_year": 2180}
    write_hosp(tmp_path / "hosp", [patient], [lab("09:00:00", 5.6)])
    expected = build_index("mimic-iv-ecg", str(tmp_path), str(tmp_path / "hosp")).table
    store = fsspec.filesystem("memory")
    for path in [*tmp_path.glob("*.csv"), *(tmp_path / "hosp").glob("*.csv*")]:
        content = path.read_bytes()
        packed = content if path.suffix == ".gz" else gzip.compress(content)
        store.pipe(f"/{tmp_path.name}/{path.relative_to(tmp_path)}".removesuffix(".gz") + ".gz", packed)
    assert build_index("mimic-iv-ecg", f"memory://{tmp_path.name}", f"memory://{tmp_path.name}/hosp").table.equals(
        expected
    )


@pytest.mark.parametrize("key", ["study_id", "subject_id", "subject_id,study_id"])
def test_a_given_split_file_takes_the_place_of_the_draw(tmp_path: Path, key: str) -> None:
    write_ecgs(tmp_path, [{"study_id": 40 + i, "subject_id": i} for i in range(1, 5)])
    rows = [(1, "test"), (2, "val"), (4, " Train ")]
    cells = {"study_id": "{study}", "subject_id": "{patient}", "subject_id,study_id": "{patient},{study}"}[key]
    given = "\n".join(f"{cells.format(study=40 + i, patient=i)},{split}" for i, split in rows)
    (tmp_path / "splits.csv").write_text(f"{key},split\n{given}\n")
    options = IndexOptions(split_file=str(tmp_path / "splits.csv"))
    splits = [row["split"] for row in index_rows(tmp_path, options=options)]
    assert splits == ["test", "validation", "unused", "train"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study_id,split\n41,testing\n", "row 2: study_id 41 is in split 'testing', expected train, validation, test"),
        ("study_id,split\n41,\n", "row 2"),
        ("study_id,split\n,test\n", "row 2"),
        ("study_id,split\n41,test\n41,train\n", "study_id 41 is in two splits, which would leak"),
        ("study_id,split\n41,test\n42,train\n", "the patient of .* is in more than one split, which would leak"),
        ("study_id,split\n7,test\n", "names none of the 2 studies"),
        ("subject_id,patient_id,split\n1,1,test\n", "needs one column study_id or subject_id beside split, it has 2"),
        (
            "study_id,subject_id,split\n7,7,test\n41,10000009,test\n",
            "row 3: study_id 41 has subject_id 10000009, in the dataset it is of 10000001",
        ),
        ("subject_id,study_id,split\n10000001,41,test\n10000001,42,train\n", "more than one split"),
        ("path,split\n41,test\n", "it has 0"),
        ("study_id,part\n41,test\n", "has no column 'split'"),
        ("", "is empty"),
    ],
)
def test_split_files_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write_ecgs(tmp_path, [{"study_id": 41}, {"study_id": 42}])
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        index_rows(tmp_path, options=IndexOptions(split_file=str(tmp_path / "splits.csv")))


def test_a_sample_of_patients_keeps_all_their_ecgs(tmp_path: Path) -> None:
    write_ecgs(tmp_path, [{"study_id": 1000 + i, "subject_id": i // 3} for i in range(90)])
    few = index_rows(tmp_path, options=IndexOptions(patients=7))
    more = index_rows(tmp_path, options=IndexOptions(patients=20))
    assert len(few) == 21
    assert len({row["patient_id"] for row in few}) == 7
    assert {row["study_id"] for row in few} < {row["study_id"] for row in more}
    assert len(index_rows(tmp_path, options=IndexOptions(patients=1000))) == 90
    whole = {row["study_id"]: row["split"] for row in index_rows(tmp_path)}
    assert all(whole[row["study_id"]] == row["split"] for row in few), "the sample moved patients between splits"
    funnel = build_index("mimic-iv-ecg", str(tmp_path), options=IndexOptions(patients=7)).funnel
    assert funnel[-1] == ("of 7 sampled patients", 21)


def test_the_potassium_window_is_an_option(tmp_path: Path) -> None:
    write_ecgs(tmp_path, [{"study_id": 41}])
    write_hosp(
        tmp_path / "hosp",
        [{"subject_id": 1, "gender": "F", "anchor_age": 60, "anchor_year": 2180}],
        [lab("10:44:00", 4.0)],
    )
    options = IndexOptions(potassium_window_minutes=120)
    assert index_rows(tmp_path, hosp=str(tmp_path / "hosp"), options=options)[0]["potassium_gap_minutes"] == 120


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("50971,Sodium,Blood,Chemistry", "item 50971 is 'Sodium' in 'Blood'"),
        ('50822,"Potassium, Urine",Urine,Chemistry', "item 50822 .* in 'Urine'"),
        ("50000,Sodium,Blood,Chemistry", "none of the potassium items"),
        ("50971,Potassium,Blood,Chemistry", None),
        ('50971,Potassium,Blood,Chemistry\n51097,"Potassium, Urine",Urine,Chemistry', None),
        (
            "50971,Potassium,Blood,Chemistry\n53999,Potassium Hydroxide,Blood,Chemistry",
            "item 53999 .* may or may not be",
        ),
    ],
)
def test_item_ids_are_compared_with_d_labitems(tmp_path: Path, items: str, message: str | None) -> None:
    write_ecgs(tmp_path, [{"study_id": 41}])
    write_hosp(tmp_path / "hosp", [{"subject_id": 1, "gender": "F", "anchor_age": 60, "anchor_year": 2180}], [])
    (tmp_path / "hosp" / "d_labitems.csv").write_text(f"itemid,label,fluid,category\n{items}\n")
    if message is None:
        index_rows(tmp_path, hosp=str(tmp_path / "hosp"))
    else:
        with pytest.raises(DatasetError, match=message):
            index_rows(tmp_path, hosp=str(tmp_path / "hosp"))


def test_further_potassium_items_of_d_labitems_are_used(tmp_path: Path) -> None:
    """Serum still goes before whole blood, and what is potassium in urine stays out."""
    write_ecgs(tmp_path, [{"study_id": 40 + i, "subject_id": i} for i in range(1, 5)])
    at, patient = "08:44:00", {"gender": "F", "anchor_age": 60, "anchor_year": 2180}
    labs = [lab(at, 4.1, 53001, subject_id=1), lab("08:50:00", 4.9, 50971, subject_id=1)]
    labs += [lab(at, 4.2, 53002, subject_id=2), lab("08:50:00", 4.8, 53001, subject_id=2)]
    labs += [lab(at, 4.3, 53003, subject_id=3), lab(at, 4.4, 53002, subject_id=4)]
    write_hosp(tmp_path / "hosp", [{"subject_id": i, **patient} for i in range(1, 5)], labs)
    rows = ["50971,Potassium,Blood,Chemistry", '53001,"Potassium, Plasma",Blood,Chemistry']
    rows += ['53002,"Potassium, Whole Blood",Blood,Blood Gas', '53003,"Potassium, Urine",Urine,Chemistry']
    (tmp_path / "hosp" / "d_labitems.csv").write_text("\n".join(["itemid,label,fluid,category", *rows]) + "\n")
    found = [row["potassium_itemid"] for row in index_rows(tmp_path, hosp=str(tmp_path / "hosp"))]
    assert found == [53001, 53001, None, 53002]
    (tmp_path / "hosp" / "d_labitems.csv").unlink()
    found = [row["potassium_itemid"] for row in index_rows(tmp_path, hosp=str(tmp_path / "hosp"))]
    assert found == [50971, None, None, None]


def test_simulated_data_have_their_hospital_tables_inside(tmp_path: Path) -> None:
    write_ecgs(tmp_path, [{"study_id": 41}])
    assert build_index("simulated", str(tmp_path)).table["age_years"].to_pylist() == [None]
    write_hosp(tmp_path / "hosp", [{"subject_id": 10000001, "gender": "F", "anchor_age": 60, "anchor_year": 2180}], [])
    index = build_index("simulated", str(tmp_path))
    assert index.source == "simulated"
    assert index.table["age_years"].to_pylist() == [60]
    assert index.table["rr_source"].to_pylist() == ["simulator"]


@pytest.mark.real_data
@pytest.mark.skipif(not SCHEMA_ROWS.is_dir(), reason="mimic-iv-ecg-schema is not in ../shared/data")
def test_a_real_row_of_each_table() -> None:
    row = index_rows(SCHEMA_ROWS)[0]
    assert row["study_id"] == 40689238
    assert row["patient_id"] == 10000032
    assert row["path"] == "files/p1000/p10000032/s40689238/40689238"
    assert (row["rr_label_ms"], row["cart_id"]) == (659, 6848296)
    assert (row["report0_15"], row["rhythm15"]) == (0, 14)
