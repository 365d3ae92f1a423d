"""The running mean of the weights, at every ZeRO stage and under DDP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from average_examples import steps_with_mean
from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.folder import OF_LOSSES
from ecgmoe.training.config import TrainingConfig
from prepared_examples import simulated_and_prepared
from training_examples import job_of

pytestmark = pytest.mark.distributed

DECAY, STEPS = 0.3, 6
ENGINES = ("ddp", 0, 1, 2, 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str | int, dict[str, Any]]:
    root = tmp_path_factory.mktemp("average")
    data = simulated_and_prepared(root, patients=25, studies=60)
    plain = RunConfig(
        backbones=(BackboneConfig(name="dlinear", size="tiny", mode="full"),),
        model=ModelConfig(width=16),
        training=TrainingConfig(global_batch=8, slots=4, learning_rate=1e-2, weight_average=DECAY),
    )
    configs = [
        replace(plain, training=replace(plain.training, engine="ddp", zero_stage=0))
        if engine == "ddp"
        else replace(plain, training=replace(plain.training, zero_stage=engine))
        for engine in ENGINES
    ]
    jobs = [job_of(config, data) for config in configs]
    return dict(zip(ENGINES, run_distributed(steps_with_mean, 2, jobs, STEPS, str(root / "mean"))[0], strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_mean_is_that_of_the_weights_and_they_stand_again_after_it(
    runs: dict[str | int, dict[str, Any]], engine: str | int
) -> None:
    run = runs[engine]
    names = [name for name in run["means"][0] if not name.startswith(OF_LOSSES)]
    expected = {name: run["weights"][0][name] for name in names}
    for step, (weights, mean) in enumerate(zip(run["weights"][1:], run["means"], strict=True), start=1):
        share = 1 - min(DECAY, (1 + step) / (10 + step))
        for name in names:
            if expected[name].is_floating_point():
                expected[name] = expected[name].lerp(weights[name], share)
            # The same operation on the same numbers, cut otherwise at stage 3.
            assert torch.equal(mean[name], expected[name]), (step, name)
    moved = max((run["means"][-1][name] - run["weights"][-1][name]).abs().max() for name in names)
    assert moved > 1e-3
    assert all(torch.equal(run["again"][name], value) for name, value in run["weights"][-1].items())


@pytest.mark.parametrize("engine", ENGINES)
def test_it_goes_through_a_model_file(runs: dict[str | int, dict[str, Any]], engine: str | int) -> None:
    run = runs[engine]
    for name, value in run["means"][-1].items():
        assert torch.equal(run["loaded"][name], value), name


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_what_a_validation_sees(runs: dict[str | int, dict[str, Any]], engine: str | int) -> None:
    averaged, plain = (metrics["age"]["mae"] for metrics in runs[engine]["metrics"])
    assert averaged != plain
    # All engines make the same steps up to rounding, and so have the same mean.
    assert averaged == pytest.approx(runs["ddp"]["metrics"][0]["age"]["mae"], rel=1e-4)


def test_a_decay_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"weight_average must be in \[0, 1\), got 1\.0"):
        TrainingConfig(weight_average=1.0)
