"""Frozen parameters cost no optimiser state at any ZeRO stage; what is predicted is what a process takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.benchmark.training_memory import example, memory_benchmark
from ecgmoe.config import RunConfig
from ecgmoe.model.config import ModelConfig
from ecgmoe.training.config import TrainingConfig
from training_examples import optimizer_state

pytestmark = pytest.mark.distributed

STAGES = (0, 1, 2, 3)
PADDING = 500
"""Partitions are as long on every rank: at stage 3 every parameter is padded, by less than its number of ranks."""


def config(stage: int, mode: str = "frozen") -> RunConfig:
    return RunConfig(
        backbones=(BackboneConfig(name="dlinear", size="base", mode=mode, allow_random=True),),  # type: ignore[arg-type]
        model=ModelConfig(width=16, morphology_kernels=(3,), rhythm_dilations=((1,),)),
        training=TrainingConfig(num_workers=2, global_batch=8, zero_stage=stage),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def results() -> list[list[dict[str, Any]]]:
    """By stage and rank; the last ones with nothing frozen, at stage 0."""
    ranks = run_distributed(optimizer_state, 2, [*map(config, STAGES), config(0, "full")])
    return [list(case) for case in zip(*ranks, strict=True)]


@pytest.mark.parametrize("stage", STAGES)
def test_only_what_trains_has_optimizer_state(results: list[list[dict[str, Any]]], stage: int) -> None:
    ranks = results[stage]
    trained, parameters = ranks[0]["trained"], ranks[0]["parameters"]
    assert parameters - trained > 10 * PADDING, "what is frozen must be more than the padding"
    assert all(rank["frozen_with_gradient"] == 0 for rank in ranks)
    if stage == 0:
        assert all(rank["state"] == 2 * trained and rank["master"] == 0 for rank in ranks)
    else:
        assert 2 * trained <= sum(rank["state"] for rank in ranks) < 2 * trained + PADDING
        assert trained <= sum(rank["master"] for rank in ranks) < trained + PADDING


def test_what_trains_instead_of_being_frozen_has_state(results: list[list[dict[str, Any]]]) -> None:
    for rank in results[-1]:
        assert rank["trained"] == rank["parameters"]
        assert rank["state"] == 2 * rank["parameters"]


@pytest.mark.long
@pytest.mark.parametrize(("stage", "accumulation"), [*((stage, 1) for stage in STAGES), (1, 2), (2, 2)])
def test_predicted_memory_is_what_a_process_takes(stage: Any, accumulation: int) -> None:
    """With 26 of 62 million parameters that train; prints a row of the table in TRAINING.md."""
    config = example()
    config = replace(config, training=replace(config.training, accumulation=accumulation))
    found = memory_benchmark(config, (stage,))
    print(found["markdown"], flush=True)
    assert found["stages"][str(stage)]["ratio"] == pytest.approx(1, abs=0.15)
