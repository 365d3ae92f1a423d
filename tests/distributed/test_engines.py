"""Clipping bounds the step, whatever the engine; without it the step is the gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.model.config import ModelConfig
from ecgmoe.training.config import TrainingConfig
from prepared_examples import simulated_and_prepared
from training_examples import job_of, train_some

pytestmark = pytest.mark.distributed

RATE, CLIP = 0.1, 0.05
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"engine": "ddp", "zero_stage": 0},
    **{f"stage {stage}": {"zero_stage": stage} for stage in (0, 1, 2, 3)},
}


def config(clip: float, engine: dict[str, Any]) -> RunConfig:
    """Plain SGD: a step is the learning rate times the clipped gradient."""
    plain = TrainingConfig(
        optimizer="sgd",
        momentum=0,
        schedule="constant",
        warmup=0,
        weight_decay=0,
        learning_rate=RATE,
        clip_norm=clip,
        **engine,
    )
    return RunConfig(
        backbones=(BackboneConfig(name="dlinear"),), model=ModelConfig(width=16, dropout=0.0), training=plain
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, Any]]:
    data = simulated_and_prepared(tmp_path_factory.mktemp("engines"), patients=40, studies=100)
    configs = {(name, clip): config(clip, engine) for name, engine in ENGINES.items() for clip in (CLIP, 1e9)}
    jobs = [job_of(each, data) for each in configs.values()]
    return dict(zip(configs, run_distributed(partial(train_some, gradients=True), 2, jobs, 1)[0], strict=True))


def norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.cat([tensor.double().flatten() for tensor in tensors]).norm())


@pytest.mark.parametrize("engine", ENGINES)
def test_clipping_bounds_the_step(results: dict[Any, dict[str, Any]], engine: str) -> None:
    steps = {}
    for clip in (CLIP, 1e9):
        result = results[engine, clip]
        steps[clip] = norm([result["start"][name] - result["state"][name] for name in result["trained"]]) / RATE
    gradient = norm(list(results[engine, CLIP]["gradients"].values()))
    assert gradient > 2 * CLIP
    # The difference of two fp32 weights near 1 is known to 6e-8 each, and the step is a tenth of CLIP.
    assert steps[CLIP] == pytest.approx(CLIP, rel=1e-3)
    assert steps[1e9] == pytest.approx(gradient, rel=1e-3)
    if engine != "stage 0":  # where DeepSpeed clips without telling the norm
        assert results[engine, CLIP]["norms"] == [pytest.approx(gradient, rel=1e-5)]
