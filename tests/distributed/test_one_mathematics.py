"""The same training, whatever the number of workers, the ZeRO stage, the accumulation and the cut of the batch.

Everything that could tell them apart is on: labels missing at random, class weights, learnt task weights, and the terms
that need the whole global batch. Dropout is off, because ranks draw their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.training.config import TrainingConfig
from prepared_examples import simulated_and_prepared
from training_examples import job_of, train_some

pytestmark = pytest.mark.distributed

STEPS = 20
OPTIMIZERS = {"sgd": {"optimizer": "sgd", "learning_rate": 1e-2}, "adamw": {"epsilon": 1e-6}}
"""AdamW divides by the root of tiny second moments; with its usual epsilon it enlarges rounding without bound."""
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"engine": "ddp", "zero_stage": 0},
    **{f"stage {stage}": {"zero_stage": stage} for stage in (0, 1, 2, 3)},
    "stage 2, offloaded": {"zero_stage": 2, "offload": "optimizer"},
    "stage 3, offloaded": {"zero_stage": 3, "offload": "parameters"},
}
REFERENCE = (1, "ddp", 1)
"""Workers, engine, passes per step. One worker under plain torch: no library takes part in its arithmetic."""
BOTH = [(1, "stage 1", 2), (2, "ddp", 2), (2, "stage 2", 2), (2, "stage 3", 1)]
CASES = [(name, *case) for name in OPTIMIZERS for case in BOTH] + [
    ("sgd", 2, "stage 0", 1),
    ("sgd", 2, "stage 1", 1),
    ("adamw", 2, "stage 3, offloaded", 2),
]
"""Optimiser, workers, engine, passes per step; `test_every_layout` has all of them."""
EVERY_CASE = [(workers, engine, passes) for workers in (1, 2, 4) for engine in ENGINES for passes in (1, 2)]
# Of fp32 sums in another order, each about 6e-8 relative; SGD adds them up over the steps, AdamW enlarges them.
GRADIENT, TRAINED = 1e-6, {"sgd": 1e-5, "adamw": 1e-4}
UNEQUAL = (21, 11)

Results = dict[tuple[Any, ...], dict[str, Any]]


def config(optimizer: str, workers: int, engine: str, passes: int) -> RunConfig:
    return RunConfig(
        backbones=(BackboneConfig(name="dlinear", size="tiny", mode="full"),),
        model=ModelConfig(width=16, dropout=0.0),
        loss=LossConfig(class_balance=0.5, task_weighting="uncertainty", load_balance_weight=0.1),
        training=TrainingConfig(
            epochs=5, num_workers=workers, accumulation=passes, **ENGINES[engine], **OPTIMIZERS[optimizer]
        ),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated_and_prepared(tmp_path_factory.mktemp("mathematics"))


def train(data: Path, cases: list[tuple[Any, ...]], steps: int, counts: tuple[int, ...] | None = None) -> Results:
    """(optimiser, workers, engine, passes) to what came out; one process group per number of workers."""
    found: Results = {}
    for world in sorted({case[1] for case in cases}):
        chosen = [case for case in cases if case[1] == world]
        jobs = [job_of(config(*case), data) for case in chosen]
        train_these = partial(train_some, hidden=0.3, gradients=True, counts=counts)
        ranks = run_distributed(train_these, world, jobs, steps)
        for rank in ranks[1:]:
            assert [each["losses"] for each in rank] == [each["losses"] for each in ranks[0]]
        found |= dict(zip(chosen, ranks[0], strict=True))
    return found


@pytest.fixture(scope="module")
def results(data: Path) -> Results:
    return train(data, [*((name, *REFERENCE) for name in OPTIMIZERS), *CASES], STEPS)


def distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm, of all tensors together."""
    assert set(found) == set(expected)
    both = [(found[name].double(), value.double()) for name, value in expected.items()]
    difference = sum((a - b).square().sum() for a, b in both) ** 0.5
    return float(difference / sum(b.square().sum() for _, b in both) ** 0.5)


def trained(result: Mapping[str, Any], state: str = "state") -> dict[str, Tensor]:
    """Weights that train: buffers would only enlarge the norm."""
    return {name: result[state][name] for name in result["trained"]}


def distances(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, float]:
    losses, others = torch.tensor(found["losses"]).double(), torch.tensor(expected["losses"]).double()
    steps = len(losses)
    return {
        "gradient": distance(found["gradients"], expected["gradients"]),
        "first losses": float((losses[0] - others[0]).norm() / others[0].norm()),
        "losses": float((losses - others[:steps]).norm() / others[:steps].norm()),
        "weights": distance(trained(found), trained(expected)),
    }


def check(results: Results, optimizer: str, workers: int, engine: str, passes: int) -> dict[str, float]:
    found = distances(results[optimizer, workers, engine, passes], results[optimizer, *REFERENCE])
    assert found["gradient"] < GRADIENT
    assert found["first losses"] < GRADIENT
    assert found["losses"] < TRAINED[optimizer]
    assert found["weights"] < TRAINED[optimizer]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: "{}, {} workers, {}, {} passes".format(*case))
def test_they_train_as_one_worker_in_one_pass(results: Results, case: tuple[str, int, str, int]) -> None:
    check(results, *case)


def test_unequal_halves_give_the_gradient_of_the_whole(data: Path, results: Results) -> None:
    case = ("sgd", 2, "stage 1", 1)
    found = distances(train(data, [case], 1, UNEQUAL)[case], results["sgd", *REFERENCE])
    assert found["gradient"] < GRADIENT
    assert found["first losses"] < GRADIENT


def test_all_that_trains_gets_a_gradient_and_moves(results: Results) -> None:
    """Equality would mean little if nothing had been trained."""
    for result in results.values():
        assert set(result["gradients"]) == set(result["trained"])
        without = {name for name, gradient in result["gradients"].items() if not gradient.abs().max()}
        # B of every adapter is zero at the start, and then nothing reaches its A.
        assert without == {"trunk.first.A", "trunk.second.A"}
        start = trained(result, "start")
        assert not [name for name, value in trained(result).items() if torch.equal(value, start[name])]
        assert distance(trained(result), start) > 100 * TRAINED["adamw"]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_layout(data: Path) -> None:
    """The table of all layouts; prints the largest distances."""
    cases = [(name, *case) for name in OPTIMIZERS for case in EVERY_CASE]
    results = train(data, cases, STEPS)
    for case in cases:
        found = check(results, *case)
        print(*case, json.dumps({key: float(f"{value:.1e}") for key, value in found.items()}), flush=True)
