"""The reader of the PhysioNet/CinC Challenge 2021."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.schema import STUDY_SCHEMA, DatasetError
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault
from ecgmoe.ecg.rhythm import TAXONOMIES
from external_records import write_cinc2021

RHYTHM = TAXONOMIES["rhythm15"]
SINUS = ("Age: 59", "Sex: Female", "Dx: 426783006")


def write(root: Path, *comments: tuple[str, ...], **options: int) -> str:
    """Headers without signals, named E00001, E00002, ..."""
    named = {f"georgia/g1/E{number:05}": lines for number, lines in enumerate(comments, 1)}
    return write_cinc2021(root, named, waveforms=False, **options)  # type: ignore[arg-type]


def test_labels(tmp_path: Path) -> None:
    comments = (
        (*SINUS, "Rx: Unknown", "Hx: Unknown"),
        ("Age: 300", "Sex: male", "Dx: 164889003,270492004,59118001"),
        ("Age: NaN", "Sex: NaN", "Dx: 59118001"),
        ("Age: 5", "Sex: Unknown", "Dx: 426177001, 426783006"),
    )
    index = build_index("cinc2021", write(tmp_path, *comments))
    columns = index.table.to_pydict()
    assert index.source == "cinc2021"
    assert index.table.schema.equals(STUDY_SCHEMA)
    assert columns["path"][0] == "georgia/g1/E00001"
    assert len(set(columns["study_id"])) == 4
    assert columns["patient_id"] == columns["study_id"]
    assert columns["age_years"] == [59, None, None, None]
    assert columns["sex_female"] == [1, 0, None, None]
    assert columns["rhythm15"] == [14, 4, None, 12]
    assert columns["rr_source"] == ["detected"] * 4
    assert index.unmapped == (("59118001", 2),)
    for name in ("rr_label_ms", "potassium_mmol", "potassium_abnormal", "report0_15", "ecg_time"):
        assert columns[name] == [None] * 4


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("Dx: 426783006",), (None, None, 14)),
        (("Age: 59", "Sex: F"), (59, 1, None)),
        (("Age: 59", "Sex: F", "Dx: Unknown"), (59, 1, None)),
        (("Age: 59", "Sex: F", "Dx:"), (59, 1, None)),
        (("Age:", "Sex:", "Dx: 426783006,"), (None, None, 14)),
        (("Age: old", "Sex: X", "Dx: sinus rhythm"), (None, None, None)),
        (("age : 59.5", "SEX: FEMALE", "DX:426783006"), (59.5, 1, 14)),
        (("Age: 18", "Sex: M", "Dx: 426783006"), (18, 0, 14)),
        (("Age: 90", "Sex: M", "Dx: 426783006"), (None, 0, 14)),
    ],
)
def test_a_line_that_is_missing_or_says_nothing_is_no_label(
    tmp_path: Path, lines: tuple[str, ...], expected: tuple[float | None, ...]
) -> None:
    row = build_index("cinc2021", write(tmp_path, lines, SINUS)).table.to_pylist()[0]
    assert (row["age_years"], row["sex_female"], row["rhythm15"]) == expected


def test_unknown_codes_and_words_are_counted_as_unmapped(tmp_path: Path) -> None:
    index = build_index("cinc2021", write(tmp_path, ("Dx: 1234,1234,sinus,426783006",), ("Dx: 1234",)))
    assert index.unmapped == (("1234", 2), ("sinus", 1))


def test_headers_of_the_challenge_of_2020_have_no_blank(tmp_path: Path) -> None:
    root = write(tmp_path, SINUS)
    header = tmp_path / "georgia/g1/E00001.hea"
    header.write_text(header.read_text().replace("# ", "#"))
    row = build_index("cinc2021", root).table.to_pylist()[0]
    assert (row["age_years"], row["sex_female"], row["rhythm15"]) == (59, 1, 14)


@pytest.mark.parametrize(
    ("rate", "samples", "labelled"), [(500, 30_000, True), (257, 462_600, False), (500, 30_001, False)]
)
def test_diagnoses_of_long_recordings_are_not_those_of_their_first_10_s(
    tmp_path: Path, rate: int, samples: int, labelled: bool
) -> None:
    row = build_index("cinc2021", write(tmp_path, SINUS, rate_hz=rate, samples=samples)).table.to_pylist()[0]
    assert (row["rhythm15"] is not None) == labelled
    assert (row["age_years"], row["sex_female"]) == (59, 1)


def test_a_name_is_a_study_wherever_its_file_lies(tmp_path: Path) -> None:
    write_cinc2021(tmp_path / "a", {"training/ptb-xl/g1/HR00001": SINUS, "x/E00001": SINUS}, waveforms=False)
    write_cinc2021(tmp_path / "b", {"HR00001": SINUS}, waveforms=False)
    ids = [build_index("cinc2021", str(tmp_path / name)).table["study_id"].to_pylist() for name in ("a", "b")]
    assert ids[1] == ids[0][:1]
    both = build_index("cinc2021", str(tmp_path))
    assert both.table["path"].to_pylist() == ["a/training/ptb-xl/g1/HR00001", "a/x/E00001"]
    ((path, reason),) = both.excluded
    assert path == "b/HR00001"
    assert reason.startswith("the record's name is there twice")


def test_what_has_no_header_or_no_name_is_excluded(tmp_path: Path) -> None:
    root = write(tmp_path, SINUS)
    (tmp_path / "E00009.mat").touch()
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff.hea"))).touch()
    index = build_index("cinc2021", root)
    assert dict(index.excluded) == {
        "E00009.mat": "its header .hea is not beside it, which holds the labels",
        "\\udcff": "the file name is not valid UTF-8: rename it",
    }
    assert index.funnel == (("files found", 3), ("with a header, a safe path and a name of their own", 1))


def test_an_unreadable_header_is_left_to_reading_the_record(tmp_path: Path) -> None:
    root = write(tmp_path, SINUS, SINUS)
    (tmp_path / "georgia/g1/E00002.hea").write_bytes(b"\x00\xff")
    os.mkfifo(tmp_path / "georgia/g1/E00003.hea")
    rows = build_index("cinc2021", root).table.to_pylist()
    assert [row["rhythm15"] for row in rows] == [14, None, None]
    for name in ("E00002", "E00003"):
        with pytest.raises(RecordFault):
            read_usable(f"{root}/georgia/g1/{name}", ReaderOptions(), QualityPolicy())


def test_an_object_store(tmp_path: Path) -> None:
    write(tmp_path, SINUS)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/challenge/E00001.hea", (tmp_path / "georgia/g1/E00001.hea").read_bytes())
    assert build_index("cinc2021", "memory://challenge").table["rhythm15"].to_pylist() == [14]


def test_other_folders_are_refused_with_the_reader_for_them(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no WFDB header"):
        build_index("cinc2021", str(tmp_path))
    write(tmp_path, ("Age: 59",))
    with pytest.raises(DatasetError, match=r"no header below .* has a line '# Dx: \.\.\.'.*--dataset wfdb"):
        build_index("cinc2021", str(tmp_path))


def test_signals_come_in_by_the_header(tmp_path: Path) -> None:
    root = write_cinc2021(tmp_path, {"E00001": SINUS})
    record = read_usable(f"{root}/E00001", ReaderOptions(), QualityPolicy())
    assert record.r_peaks.tolist()[:12] == list(range(200, 4800, 400))
    write_cinc2021(tmp_path, {"short/E00002": SINUS}, samples=4000)
    with pytest.raises(RecordFault, match="lasts 8 s, 10 s are needed"):
        read_usable(f"{root}/short/E00002", ReaderOptions(), QualityPolicy())
    padded = read_usable(f"{root}/short/E00002", ReaderOptions(pad_short=True), QualityPolicy(missing="keep"))
    assert padded.quality.padded_samples == 1000


@pytest.mark.real_data
def test_the_real_records(shared_data: Path) -> None:
    index = build_index("cinc2021", str(shared_data / "cinc2021"))
    columns = index.table.to_pydict()
    assert len(index.table) == 33
    assert index.excluded == ()
    assert Counter(columns["sex_female"]) == {0: 16, 1: 17}
    ages = [age for age in columns["age_years"] if age is not None]
    assert (len(ages), min(ages), max(ages)) == (32, 28, 89)  # one child
    labels = [None if label is None else RHYTHM[label] for label in columns["rhythm15"]]
    assert Counter(labels) == {
        "sinus rhythm": 7,
        "sinus bradycardia": 5,
        "sinus tachycardia": 5,
        "ventricular premature": 4,
        "atrial premature": 8,
        "supraventricular tachycardia": 1,
        None: 3,
    }
    by_path = dict(zip(columns["path"], labels, strict=True))
    assert by_path["ptb-xl/HR06002"] == "sinus bradycardia"
    assert by_path["ningbo/JS20012"] == "supraventricular tachycardia"
    assert [path for path, label in by_path.items() if label is None] == [
        "georgia/E07504",
        "georgia/E07505",
        "georgia/E07507",
    ]
    assert index.unmapped[0] == ("164934002", 7)
