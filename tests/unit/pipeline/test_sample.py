"""A sample of patients."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgmoe.pipeline.folds import write_folds
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.sample import write_sample
from ecgmoe.pipeline.store import StorageError
from prepared_examples import simulated_and_prepared


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(simulated_and_prepared(tmp_path_factory.mktemp("sample"), patients=90, studies=150))


def patients_and_splits(root: str) -> list[tuple[int, str]]:
    labels = PreparedData(root).labels()
    return list(zip(labels["patient_id"].to_pylist(), labels["split"].to_pylist(), strict=True))


def test_it_keeps_patients_whole_and_splits_as_they_are(data: str, tmp_path: Path) -> None:
    out = write_sample(data, str(tmp_path / "sample"), 40)
    sample = patients_and_splits(out)
    kept = {patient for patient, split in sample if split != "unused"}
    assert len(kept) == 40
    assert sample == [(who, split if who in kept else "unused") for who, split in patients_and_splits(data)]
    assert PreparedData(out).records.root == data
    assert write_sample(data, out, 40) == out
    with pytest.raises(StorageError, match="is a sample of other data, or was cut otherwise"):
        write_sample(data, out, 41)


def test_folds_of_a_sample_have_its_patients_alone(data: str, tmp_path: Path) -> None:
    out = write_sample(data, str(tmp_path / "sample"), 60)
    kept = {patient for patient, split in patients_and_splits(out) if split not in ("unused", "test")}
    for root in write_folds(out, str(tmp_path / "folds"), folds=2):
        assert {patient for patient, split in patients_and_splits(root) if split != "unused"} == kept
        assert PreparedData(root).records.root == data


def test_more_patients_than_there_are(data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 89 patients and the protocol takes 10,000: prepare more"):
        write_sample(data, str(tmp_path / "sample"), 10_000)
    out = write_sample(data, str(tmp_path / "sample"), 10_000, fewer=True)
    assert patients_and_splits(out) == patients_and_splits(data)
