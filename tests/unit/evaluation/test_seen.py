"""Records that training met are left out of an external evaluation, and no others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ecgmoe.evaluation.seen import compare, find_seen, seen_in_pretraining
from ecgmoe.pipeline.prepared import PreparedData
from external_records import write_cinc2021, write_ludb
from prepared_examples import prepare_here

SPLITS = ("train", "validation", "test", "unused")


def labels(patients: list[int], splits: tuple[str, ...] | None = None, paths: list[str] | None = None) -> pa.Table:
    """Studies 100, 101, ... of these patients."""
    n = len(patients)
    return pa.table(
        {
            "study_id": pa.array(range(100, 100 + n), pa.int64()),
            "patient_id": pa.array(patients, pa.int64()),
            "split": list(splits or ["test"] * n),
            "path": paths or [f"r{patient}" for patient in patients],
        }
    )


@pytest.mark.parametrize("dataset", ["ptbxl", "mimic-iv-ecg", "simulated", "ludb", "cinc2021"])
def test_patients_of_training_and_validation_are_left_out_of_the_same_dataset(dataset: str) -> None:
    seen = compare(dataset, labels([1, 2, 3, 4], SPLITS), dataset, labels([4, 3, 2, 1, 1, 9]))
    assert seen.left_out.tolist() == [102, 103, 104]
    assert seen.notes == ("3 of 6 records are left out: training met their patients.",)
    assert seen.describe() == {"left_out": 3, "notes": list(seen.notes)}


def test_no_patient_in_common_is_no_note() -> None:
    seen = compare("ptbxl", labels([1, 2], ("train", "test")), "ptbxl", labels([2, 3]))
    assert (seen.left_out.tolist(), seen.notes) == ([], ())


def test_ids_of_other_datasets_and_of_own_folders_mean_nothing() -> None:
    assert compare("mimic-iv-ecg", labels([1], ("train",)), "ludb", labels([1])).notes == ()
    own = compare("wfdb", labels([1, 2], ("train", "test")), "wfdb", labels([1, 2, 1]))
    assert own.left_out.tolist() == []
    assert own.notes[0].startswith("2 of 3 records have a patient_id that training has too: own folders name patients")
    assert compare("wfdb", labels([1], ("train",)), "wfdb", labels([2])).notes == ()


def test_cinc2021_holds_ptbxl() -> None:
    paths = ["training/ptb-xl/g1/HR00101", "HR06000", "georgia/E00101", "HR6000/JS00001", "XHR00007"]
    seen = compare("ptbxl", labels([1], ("train",)), "cinc2021", labels([1, 2, 3, 4, 5], paths=paths))
    assert seen.left_out.tolist() == [100, 101]
    assert seen.notes == ("2 of 5 records are left out: they are PTB-XL's (HR...), which the model was trained on.",)


def test_ptbxl_is_held_by_cinc2021() -> None:
    # Study 101 was in training as HR00101, 102 in no split of it that the model met; 103 is of the patient of 101.
    trained = labels([1, 2, 3], ("train", "test", "train"), ["HR00101", "HR00102", "E00100"])
    seen = compare("cinc2021", trained, "ptbxl", labels([70, 71, 72, 71]))
    assert seen.left_out.tolist() == [101, 103]
    assert seen.notes[0].startswith("2 of 4 records are left out: ECGs of their patients are in CinC 2021 (HR...)")


def test_nothing_new_is_refused() -> None:
    message = "none of the 2 records is new to the model, training met their patients: evaluate on other data"
    with pytest.raises(ValueError, match=message):
        compare("ptbxl", labels([1, 2], ("train", "validation")), "ptbxl", labels([1, 2]))


@pytest.mark.parametrize(
    ("dataset", "pretraining", "said"),
    [
        ("mimic-iv-ecg", "waveforms of MIMIC-IV-ECG 1.0", True),
        ("cinc2021", "waveforms of MIMIC-IV-ECG 1.0 and PhysioNet/CinC 2021", True),
        ("ptbxl", "waveforms of MIMIC-IV-ECG 1.0 and PhysioNet/CinC 2021", True),
        ("ptbxl", "waveforms of MIMIC-IV-ECG 1.0", False),
        ("ludb", "waveforms of MIMIC-IV-ECG 1.0 and PhysioNet/CinC 2021", False),
        ("wfdb", "PhysioNet/CinC 2021", False),
    ],
)
def test_pretraining_may_have_met_them_too(dataset: str, pretraining: str, said: bool) -> None:
    text = seen_in_pretraining(dataset, pretraining)
    assert ("THESE RECORDS ARE AMONG THEM" in text) == bool(text) == said
    assert ("PTB-XL is a part of CinC 2021" in text) == (said and dataset == "ptbxl")


def test_prepared_folders(tmp_path: Path) -> None:
    """By split, and never in the folder itself."""
    write_ludb(tmp_path / "ludb", [{}] * 24)
    names = {f"HR{number:05}": ("Dx: 426783006",) for number in (1, 2)} | {"E00001": ("Dx: 426783006",)}
    write_cinc2021(tmp_path / "cinc", names)
    for dataset, root, out in (("ludb", "ludb", "a"), ("ludb", "ludb", "b"), ("cinc2021", "cinc", "c")):
        prepare_here(tmp_path / root, tmp_path / out, dataset=dataset)  # type: ignore[arg-type]
    first, second, third = (PreparedData(str(tmp_path / name)) for name in "abc")
    splits = first.labels()["split"].to_pylist()
    met = sum(split in ("train", "validation") for split in splits)
    assert 0 < met < 24
    assert len(find_seen(first, second, "all").left_out) == met
    assert len(find_seen(first, second, "test").left_out) == 0
    with pytest.raises(ValueError, match=r"none of the .* records is new to the model"):
        find_seen(first, second, "train")
    assert find_seen(first, first, "train").notes == ()
    with pytest.raises(
        ValueError, match="includes its training records: name train, validation or test, or other data"
    ):
        find_seen(first, first, "all")
    assert find_seen(first, third, "all").notes == ()
    assert len(third.labels()) == 3
