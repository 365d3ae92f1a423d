"""The same training, whatever the number of workers, the ZeRO stage and the accumulation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.training.config import TrainingConfig
from prepared_examples import simulated_and_prepared
from training_examples import job_of, train_some

pytestmark = pytest.mark.distributed

STEPS = 3
CASES = {
    "one worker": {"num_workers": 1, "zero_stage": 1},
    "stage 0": {"num_workers": 2, "zero_stage": 0},
    "stage 1": {"num_workers": 2, "zero_stage": 1},
    "stage 2": {"num_workers": 2, "zero_stage": 2},
    "stage 3": {"num_workers": 2, "zero_stage": 3},
}


def config(contrastive: float = 0.1, weighting: Any = "equal", **training: Any) -> RunConfig:
    """No dropout, because ranks draw their own."""
    return RunConfig(
        backbones=(BackboneConfig(name="dlinear", size="tiny", mode="full"),),
        model=ModelConfig(width=16, dropout=0.0),
        loss=LossConfig(contrastive_weight=contrastive, class_balance=0.5, task_weighting=weighting),
        training=TrainingConfig(epochs=2, **training),
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    data = simulated_and_prepared(tmp_path_factory.mktemp("mathematics"))
    accumulating = {"two passes": config(0.0, num_workers=2, accumulation=2), "one pass": config(0.0, num_workers=1)}
    learnt = {f"learnt weights, {n}": config(0.1, weighting="uncertainty", num_workers=n) for n in (1, 2)}
    learnt["learnt weights, stage 3"] = config(0.1, weighting="uncertainty", num_workers=2, zero_stage=3)
    configs = {name: config(**case) for name, case in CASES.items()} | accumulating | learnt
    found = {}
    for world in (1, 2):
        names = [name for name, each in configs.items() if each.training.num_workers == world]
        ranks = run_distributed(train_some, world, [job_of(configs[name], data) for name in names], STEPS)
        for rank in ranks[1:]:
            assert [each["losses"] for each in rank] == [each["losses"] for each in ranks[0]]
        found |= dict(zip(names, ranks[0], strict=True))
    return found


def check_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The first loss and gradient differ by fp32 rounding of sums taken in another order.

    Later steps are looser, because Adam divides by the root of tiny second moments, which enlarges that rounding.
    """
    losses, other = torch.tensor(found["losses"]), torch.tensor(expected["losses"])
    assert torch.allclose(losses[0], other[0], rtol=1e-5, atol=1e-7)
    if found["norms"][0] is not None:
        assert found["norms"][0] == pytest.approx(expected["norms"][0], rel=1e-5)
    assert torch.allclose(losses, other, rtol=1e-3, atol=1e-5)
    assert set(found["state"]) == set(expected["state"])
    for name, value in expected["state"].items():
        assert torch.allclose(found["state"][name], value, atol=5e-4), name


@pytest.mark.parametrize("case", [name for name in CASES if name != "one worker"])
def test_two_workers_at_any_stage_train_as_one(results: dict[str, dict[str, Any]], case: str) -> None:
    check_equal(results[case], results["one worker"])


def test_two_passes_train_as_one(results: dict[str, dict[str, Any]]) -> None:
    check_equal(results["two passes"], results["one pass"])


def test_learnt_task_weights_train_as_on_one_worker(results: dict[str, dict[str, Any]]) -> None:
    one = results["learnt weights, 1"]
    for case in ("learnt weights, 2", "learnt weights, stage 3"):
        check_equal(results[case], one)
        assert (results[case]["state"]["log_variance"] != 0).all()


def test_the_weights_did_move(results: dict[str, dict[str, Any]]) -> None:
    """Equality would mean little if nothing had been trained."""
    one, other = results["one worker"]["state"], results["one pass"]["state"]
    # One of them has the projections of the contrastive term besides.
    assert max((one[name] - other[name]).abs().max() for name in other) > 1e-3
