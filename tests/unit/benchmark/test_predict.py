"""Predicting beside a bare loop of the same passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from ecgmoe.benchmark.page import rows_of
from ecgmoe.benchmark.predict import batches_of, first_rows, passes, predict_benchmark
from ecgmoe.evaluation.columns import PREDICTION
from ecgmoe.inference.predict_split import predict_split, wanted_labels
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.pipeline.prepared import PreparedData
from jobs import job
from model_examples import saved_model
from prepared_examples import simulated_and_prepared


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    simulated_and_prepared(folder, patients=15, studies=30)
    saved_model(folder / "model")
    return folder


def test_each_way_beside_bare_passes(folder: Path) -> None:
    model, data = str(folder / "model"), str(folder / "data")
    found = predict_benchmark(model, data, root=str(folder / "raw"), records=8, pairs=6, split="train")
    assert found["records"] == 8
    assert found["bare_records_per_second"] > 0
    assert found["predict"].keys() == {"prepared", "files"}
    for way in found["predict"].values():
        share = way["bare_share"]
        assert way["records_per_second"] > 0
        assert len(share["ratios"]) == 6
        assert 0 < share["low"] <= share["median"] <= share["high"]
    assert found["evaluation"]["figures_s"] > found["evaluation"]["report_s"] > 0
    assert found["evaluation"]["ms_per_record"] > 0
    rows = rows_of({"stage": "predict", **found})
    assert [row.ratio is None for row in rows] == [False, False, True]


def test_the_bare_loop_predicts_the_same(folder: Path) -> None:
    prepared, model = PreparedData(str(folder / "data")), str(folder / "model")
    bare = ECGMoE.from_pretrained(model)
    ours = predict_split(model, str(folder / "data"), "train", here=True)
    labels = wanted_labels(prepared, "train").sort_by("study_id")
    ages = [bare.in_units(each)["age"].numpy() for each in passes(bare, batches_of(prepared, labels))]
    # Another place in another batch rounds otherwise.
    np.testing.assert_allclose(np.concatenate(ages), ours[PREDICTION["age"]].to_numpy(), rtol=1e-4)


def test_the_first_rows_lie_together(folder: Path) -> None:
    labels = PreparedData(str(folder / "data")).labels()
    assert len(first_rows(labels, 10**6)) == len(labels)
    some = first_rows(labels.take(list(range(len(labels)))[::-1]), 3)
    assert set(some["shard"].to_pylist()) == {0}
    assert some["row"].to_pylist() == sorted(labels.filter(pc.equal(labels["shard"], 0))["row"].to_pylist())[:3]


def test_the_job_wants_a_model_and_data() -> None:
    said = job("benchmark", "--stage", "predict", "--model", "m", expect=2)
    assert "--stage predict takes --model and --data, and was given --model" in said
