"""A training that begins with another model's weights has them, on any number of workers and at any ZeRO stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from safetensors.torch import load_file

from ecgmoe.config import RunConfig
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.pipeline.ray_data import connect
from ecgmoe.training.run import train
from prepared_examples import simulated_and_prepared
from tuning_examples import small

pytestmark = [pytest.mark.distributed, pytest.mark.ray]

OF_INPUTS = set(TrainingStatistics.__dataclass_fields__) - {"class_weights"}


def live(**training: Any) -> RunConfig:
    """All weights train."""
    config = small()
    backbones = tuple(replace(each, mode="full") for each in config.backbones)
    return replace(config, backbones=backbones, training=replace(config.training, **training))


def test_it_has_the_weights_of_the_model(tmp_path: Path) -> None:
    first = str(simulated_and_prepared(tmp_path / "first", patients=60, studies=120))
    # Other ECGs, so that its own statistics would be others.
    second = str(simulated_and_prepared(tmp_path / "second", patients=40, studies=80, seed=5))
    storage = tmp_path / "runs"
    start = str(storage / "first" / "model")
    runs = {
        "sharded": live(epochs=0, num_workers=2, zero_stage=3),
        "trained": live(epochs=1, learning_rate=1e-9),
    }
    connect(2, dashboard=False)
    try:
        train(live(epochs=1, seed=3), data=first, features={}, name="first", storage=str(storage))
        for name, config in runs.items():
            config = replace(config, start_from=start)
            train(config, data=second, features={}, name=name, storage=str(storage))
    finally:
        ray.shutdown()
    weights = {name: load_file(storage / name / "model/model.safetensors") for name in ("first", *runs)}
    about = {name: json.loads((storage / name / "model/config.json").read_text()) for name in ("first", *runs)}
    for name in runs:
        assert set(weights[name]) == set(weights["first"])
        # Steps of 1e-9 go on from there; an average or an optimiser that began elsewhere would show.
        tolerance = 1e-6 if name == "trained" else 0.0
        for key, values in weights["first"].items():
            assert (weights[name][key] - values).abs().max() <= tolerance, (name, key)
        for key in OF_INPUTS:
            assert about[name]["statistics"][key] == about["first"]["statistics"][key]
        assert about[name]["trained_on"]["before"] == about["first"]["trained_on"]
    own = {each["trained_on"]["labels_sha256"] for each in about.values()}
    assert len(own) == 2
