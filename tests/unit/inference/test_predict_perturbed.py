"""Predictions under perturbations: clean ones are those of an evaluation, and nothing depends on who made which shard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ecgmoe.ecg.beats import detect_r_peaks, median_rr_ms
from ecgmoe.ecg.perturb import CLEAN, PERTURBATIONS, Condition, conditions, perturb
from ecgmoe.ecg.record import MISSING
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.evaluation.columns import DETECTED_RR, REFUSED
from ecgmoe.inference import predict_perturbed as module
from ecgmoe.inference.predict_perturbed import PredictPerturbedShard, conditioned, predict_perturbed, refused
from ecgmoe.inference.predict_split import PredictShard
from ecgmoe.pipeline.config import ROW_GROUP_ROWS, PrepareConfig
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from model_examples import saved_model
from prepared_examples import map_here, prepare_here

CHOSEN = conditions(["muscle_noise", "missing_leads", "gain", "cut"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records in small shards, and two models."""
    folder = tmp_path_factory.mktemp("perturbed")
    simulate(folder / "raw", SimulationConfig(patients=60, studies=120, seed=2))
    prepare_here(folder / "raw", folder / "data", PrepareConfig(shard_rows=64))
    for number, name in enumerate(("one", "two")):
        saved_model(folder / name, seed=number)
    return folder


@pytest.fixture(scope="module", autouse=True)
def without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "map_shards", map_here)
        patch.setattr(module, "actors", lambda shards: {})
        yield


@pytest.fixture(scope="module")
def predicted(folder: Path) -> Store:
    """The test split under `CHOSEN` with the seed 4."""
    out = Store(folder / "out")
    predict_perturbed(models(folder), str(folder / "data"), "test", CHOSEN, seed=4, out=out)
    return out


def models(folder: Path) -> dict[str, str]:
    return {name: str(folder / name) for name in ("one", "two")}


def labels_of(folder: Path) -> pa.Table:
    labels = PreparedData(str(folder / "data")).labels()
    return labels.filter(pc.equal(labels["split"], "test"))


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def test_clean_predictions_are_those_of_an_evaluation(folder: Path, predicted: Store) -> None:
    data, labels = str(folder / "data"), labels_of(folder)
    for run, model in models(folder).items():
        predict = PredictShard(model, data)
        shards = [labels.filter(pc.equal(labels["shard"], shard)) for shard in pc.unique(labels["shard"])]
        assert len(shards) > 1
        expected = pa.concat_tables([predict(shard) for shard in shards]).sort_by("study_id")
        condition, clean = next(conditioned(predicted, run, CHOSEN))
        assert condition == CLEAN
        names = [name for name in clean.schema.names if name in expected.schema.names]
        assert {"rr_ms", "age_years", "arrhythmia_probabilities", "rr_detected_ms", "label_rr"} <= set(names)
        assert clean.select(names).equals(expected.select(names))


def test_each_condition_is_what_the_model_says_of_the_perturbed_record(folder: Path, predicted: Store) -> None:
    tables = dict(conditioned(predicted, "one", CHOSEN))
    labels = labels_of(folder)
    assert [len(table) for table in tables.values()] == [len(labels)] * len(CHOSEN)
    for condition, table in tables.items():
        assert pc.unique(table["perturbation"]).to_pylist() == [condition.perturbation]
        assert pc.unique(table["strength"]).to_pylist() == [condition.strength]
    row = labels.sort_by("study_id").slice(0, 1)
    group, place = divmod(row["row"][0].as_py(), ROW_GROUP_ROWS)
    stored = PreparedData(str(folder / "data")).row_group(row["shard"][0].as_py(), group)
    signal, study_id = stored.signal[place], row["study_id"][0].as_py()
    condition = Condition("muscle_noise", 0.0)
    noisy = perturb(signal, stored.r_peaks[place], condition, seed=4, study_id=study_id)
    found = tables[condition].slice(0, 1).to_pylist()[0]
    assert found["study_id"] == study_id
    # Beats are looked for in the perturbed record.
    assert found[DETECTED_RR] == median_rr_ms(detect_r_peaks(noisy))
    actor = PredictPerturbedShard(models(folder), str(folder / "data"), predicted.root, CHOSEN, 4)
    alone = actor.predict(row)["one"][CHOSEN.index(condition)]
    assert alone["age"][0] == pytest.approx(found["age_years"], rel=1e-5)
    assert found["age_years"] != tables[CLEAN]["age_years"][0].as_py()


def test_the_same_bytes_for_the_same_seed_whatever_was_done_before(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, noisy = str(folder / "data"), conditions(["muscle_noise"])
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        predict_perturbed(models(folder), data, "test", noisy, seed=seed, out=Store(tmp_path / name))
    first = content(tmp_path / "first")
    assert content(tmp_path / "again") == first
    assert content(tmp_path / "other").keys() == first.keys()
    assert content(tmp_path / "other") != first
    # A shard without the file of one run is made again, and no other.
    lost = next(iter(sorted((tmp_path / "again" / "predictions" / "two").iterdir())))
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "again").rglob("*.parquet") if path.name != lost.name}
    capsys.readouterr()
    predict_perturbed(models(folder), data, "test", noisy, seed=0, out=Store(tmp_path / "again"))
    assert "records are there already" in capsys.readouterr().out
    assert content(tmp_path / "again") == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_folder_of_other_curves_is_refused(folder: Path, tmp_path: Path) -> None:
    data, out = str(folder / "data"), Store(tmp_path)
    predict_perturbed(models(folder), data, "test", conditions(["gain"]), seed=0, out=out)
    with pytest.raises(ValueError, match=r"holds other curves \(seed: 0 -> 1\): choose another --out, or delete it"):
        predict_perturbed(models(folder), data, "test", conditions(["gain"]), seed=1, out=out)
    with pytest.raises(ValueError, match=r"conditions\.cut: null -> \[5\]"):
        predict_perturbed(models(folder), data, "test", conditions(["gain", "cut"]), seed=0, out=out)
    with pytest.raises(ValueError, match=r"models\.two: \"[0-9a-f]{16}\" -> null"):
        predict_perturbed({"one": models(folder)["one"]}, data, "test", conditions(["gain"]), seed=0, out=out)


def test_a_row_group_is_a_condition(predicted: Store) -> None:
    paths = list(Path(predicted.root).rglob("*.parquet"))
    assert len(paths) > 2
    for path in paths:
        file = pq.ParquetFile(path)
        assert file.metadata.num_row_groups == len(CHOSEN)
        named = [file.read_row_group(number)["strength"][0].as_py() for number in range(len(CHOSEN))]
        assert named == [condition.strength for condition in CHOSEN]


def test_what_the_default_policy_refuses_is_predicted_and_counted(predicted: Store) -> None:
    share = {
        condition: np.mean(table[REFUSED].to_numpy(zero_copy_only=False))
        for condition, table in conditioned(predicted, "one", CHOSEN)
    }
    assert share[CLEAN] == share[Condition("gain", 0.5)] == 0
    assert share[Condition("cut", 5)] == share[Condition("missing_leads", 1)] == 1


def test_a_short_record_is_refused_as_a_reader_does() -> None:
    signal = np.random.default_rng(0).normal(0, 300, (12, 5000)).astype(np.int16)
    assert not refused(signal)
    signal[:, 2500:] = MISSING
    assert refused(signal)


def test_every_perturbation_can_be_predicted(folder: Path, tmp_path: Path) -> None:
    chosen = conditions(list(PERTURBATIONS))
    Store(tmp_path).write_json("plan.json", {})
    actor = PredictPerturbedShard(models(folder), str(folder / "data"), str(tmp_path), chosen, 0)
    said = actor.predict(labels_of(folder).slice(0, 3))
    for columns in said["two"]:
        assert all(np.isfinite(columns[task]).all() for task in ("rr", "age", "sex", "potassium", "arrhythmia"))
    # No two conditions are the same record.
    ages = {columns["age"].tobytes() for columns in said["one"]}
    assert len(ages) == len(chosen)


def test_an_empty_split_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no record in the split 'nothing'"):
        predict_perturbed(models(folder), str(folder / "data"), "nothing", CHOSEN, seed=0, out=Store(tmp_path))
