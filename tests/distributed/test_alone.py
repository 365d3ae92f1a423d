"""A run that trains in the process that asks for it is the one of Ray Train's worker, whatever the process did before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.pipeline.ray_data import connect
from ecgmoe.training.alone import can_be_alone, forget_peak_memory
from ecgmoe.training.progress import peak_memory
from ecgmoe.training.run import train
from prepared_examples import simulated_and_prepared
from tuning_examples import small

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


def live(**training: Any) -> RunConfig:
    """All weights train, with dropout, so that the random state counts."""
    config = small()
    backbones = tuple(replace(each, mode="full") for each in config.backbones)
    return replace(config, backbones=backbones, training=replace(config.training, **training))


def test_it_is_the_run_of_ray_train_bit_for_bit(tmp_path: Path) -> None:
    data, storage = str(simulated_and_prepared(tmp_path, patients=60, studies=120)), str(tmp_path / "runs")
    config, other = live(), live(zero_stage=3, seed=5)
    assert config.model.dropout > 0
    assert can_be_alone(config)
    # Another stage and another seed first, in the same process.
    plain = {"before": to_dict(other), "alone": to_dict(config)}

    # In here, so that it travels whole: the workers of Ray do not find the modules of tests.
    def one_after_the_other() -> None:
        for name, values in plain.items():
            train(from_dict(RunConfig, values), data=data, features={}, name=name, storage=storage, alone=True)

    connect(2, dashboard=False)
    try:
        train(config, data=data, features={}, name="ray-train", storage=storage)
        ray.get(ray.remote(num_cpus=1)(one_after_the_other).remote())
    finally:
        ray.shutdown()
    models = {name: (tmp_path / "runs" / name / "model") for name in ("ray-train", "alone", "before")}
    weights = {name: (folder / "model.safetensors").read_bytes() for name, folder in models.items()}
    assert weights["alone"] == weights["ray-train"]
    assert weights["before"] != weights["ray-train"]
    assert (models["alone"] / "config.json").read_text() == (models["ray-train"] / "config.json").read_text()


def test_a_run_does_not_tell_the_memory_of_one_before_it() -> None:
    forget_peak_memory()
    before = peak_memory()
    held = bytearray(300 << 20)
    assert peak_memory() > before + (200 << 20)
    del held
    forget_peak_memory()
    assert peak_memory() < before + (100 << 20)


@pytest.mark.parametrize("training", [{"num_workers": 2}, {"use_gpu": True}])
def test_more_than_one_cpu_worker_is_ray_trains(training: dict[str, Any]) -> None:
    assert not can_be_alone(live(**training))
