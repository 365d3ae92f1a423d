"""Folds: each patient is tested once, the test split stays closed, and records are shared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.pipeline.folds import write_folds
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import StorageError
from prepared_examples import embed_here, simulated_and_prepared


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated_and_prepared(tmp_path_factory.mktemp("folds"), patients=120, studies=240)


@pytest.fixture(scope="module")
def folds(data: Path) -> list[PreparedData]:
    return [PreparedData(root) for root in write_folds(str(data), str(data.parent / "folds"), folds=4)]


def test_every_patient_outside_the_test_split_is_tested_once(data: Path, folds: list[PreparedData]) -> None:
    whole = PreparedData(str(data)).labels()
    closed = {
        s for s, split in zip(whole["study_id"].to_pylist(), whole["split"].to_pylist(), strict=True) if split == "test"
    }
    tested: Counter[int] = Counter()
    for fold in folds:
        labels = fold.labels()
        # All but the split is what it was, in the order of the shards.
        assert labels.drop_columns(["split"]).equals(whole.drop_columns(["split"]))
        patients: dict[str, set[int]] = {}
        for study, patient, split in zip(
            *(labels[c].to_pylist() for c in ("study_id", "patient_id", "split")), strict=True
        ):
            assert (split == "unused") == (study in closed)
            patients.setdefault(split, set()).add(patient)
            tested[study] += split == "test"
        assert not patients["train"] & patients["test"]
        assert not patients["train"] & patients["validation"]
        assert not patients["validation"] & patients["test"]
        assert 0.05 < len(patients["validation"]) / len(patients["train"]) < 0.25
    assert {study for study, times in tested.items() if times == 1} == set(whole["study_id"].to_pylist()) - closed
    assert max(tested.values()) == 1


def test_rhythms_are_spread(folds: list[PreparedData]) -> None:
    shares = []
    for fold in folds:
        labels = fold.labels()
        tested = labels.filter(np.array(labels["split"].to_pylist()) == "test")
        shares.append(np.mean(np.array(tested["rhythm15"].to_pylist(), dtype=float) == 4))
    assert max(shares) - min(shares) < 0.1


def test_records_and_features_are_those_of_the_whole(data: Path, folds: list[PreparedData]) -> None:
    backbone = BackboneConfig(name="dlinear", size="tiny", mode="cached", allow_random=True)
    features = embed_here(Path(folds[0].store.root), [backbone])
    assert (data / "features" / features["dlinear"]).is_dir()
    assert sorted(each.name for each in Path(folds[0].store.root).iterdir()) == ["labels.parquet", "manifest.json"]
    # Another fold finds them.
    group = PreparedData(folds[1].store.root, features).row_group(0, 0)
    same = PreparedData(str(data), features).row_group(0, 0)
    assert np.array_equal(group.signal, same.signal)
    assert np.array_equal(group.features["dlinear"], same.features["dlinear"])


def test_the_same_call_leaves_them_and_another_is_refused(data: Path, folds: list[PreparedData]) -> None:
    out = data.parent / "folds"
    before = [(out / str(n) / "labels.parquet").stat().st_mtime_ns for n in range(4)]
    write_folds(str(data), str(out), folds=4)
    assert [(out / str(n) / "labels.parquet").stat().st_mtime_ns for n in range(4)] == before
    with pytest.raises(StorageError, match=r"folds/0 is a fold of other data, another number of folds or another seed"):
        write_folds(str(data), str(out), folds=3)
    with pytest.raises(StorageError, match="is a fold itself"):
        write_folds(folds[0].store.root, str(data.parent / "again"), folds=2)
    manifests = [fold.manifest for fold in folds]
    assert len({manifest["labels_sha256"] for manifest in manifests}) == 4
    assert all(sum(m["splits"].values()) == m["records"] for m in manifests)


def test_too_few_patients_or_folds(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="folds must be at least 2, got 1"):
        write_folds(str(data), str(tmp_path / "out"), folds=1)
    with pytest.raises(ValueError, match=r"\d+ patients outside the test split are too few for 80 folds"):
        write_folds(str(data), str(tmp_path / "out"), folds=80)
    assert not (tmp_path / "out").exists()


def test_a_given_rhythm_may_be_missing(tmp_path: Path) -> None:
    data = simulated_and_prepared(tmp_path, patients=60, studies=90)
    labels = pq.read_table(data / "labels.parquet")
    place = labels.schema.get_field_index("rhythm15")
    empty = np.array(
        [None if row % 2 else value for row, value in enumerate(labels["rhythm15"].to_pylist())], dtype=object
    )
    field = labels.schema.field("rhythm15")
    pq.write_table(labels.set_column(place, field, pa.array(empty.tolist(), field.type)), data / "labels.parquet")
    assert len(write_folds(str(data), str(tmp_path / "out"), folds=3)) == 3
