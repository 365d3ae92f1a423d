"""What is measured of attribution is what its explanations say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ecgmoe.benchmark.attribution import attribution_benchmark, some_records, with_shuffled_weights
from ecgmoe.inference.attribution import attribute
from ecgmoe.inference.predictor import Predictor
from jobs import job
from model_examples import saved_model
from prepared_examples import simulated_and_prepared


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attribution")
    simulated_and_prepared(folder, patients=15, studies=30)
    saved_model(folder / "model")
    return folder


def test_figures_are_those_of_the_explanations(folder: Path) -> None:
    model, data = str(folder / "model"), str(folder / "data")
    found = attribution_benchmark(model, data, records=2, steps=(4, 32), split="train")
    predictor = Predictor(model)
    assert found["records"] == 2
    for task in predictor.tasks:
        each = [attribute(predictor, record, task, steps=4) for record in some_records(data, 2, "train")]
        said = found["tasks"][task.name]
        assert said["unit"] == each[0].unit
        assert said["median_change"] == pytest.approx(np.median([abs(one.change) for one in each]))
        assert said["steps"][4]["error"] == pytest.approx(
            np.median([abs(one.error) for one in each]), rel=1e-3, abs=1e-6
        )
        assert said["steps"][4]["warned"] == np.mean([one.large_error for one in each])
        assert abs(said["shuffled_weights"]["signed"]) < 0.3


def test_shuffled_weights_are_the_same_numbers_elsewhere(folder: Path) -> None:
    model = Predictor(str(folder / "model")).model
    other = with_shuffled_weights(model)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.flatten().sort().values, two.flatten().sort().values)
    assert not torch.equal(model.periodic.query, other.periodic.query)


def test_too_few_records_are_said(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"the split train of .* has \d+ records: ask for no more with --size"):
        some_records(str(folder / "data"), 1000, "train")


def test_the_job_wants_model_and_data_for_this_alone(folder: Path) -> None:
    wanted = {
        ("attribution",): "takes --model and --data, and was given none of",
        ("index", "--model", "m"): "takes none of --model, --peer and --data, and was given --model",
        ("attribution", "--data", "d"): "takes --model and --data, and was given --data",
    }
    for given, message in wanted.items():
        assert message in job("benchmark", "--stage", *given, expect=2)
