"""The use of the experts as it is logged, and the alarm for one that nobody uses."""

from __future__ import annotations

import pytest
import torch

from ecgmoe.model.config import ModelConfig
from ecgmoe.training.alone import group_of_one
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.progress import Progress
from ecgmoe.training.routing import RoutingLoad
from model_examples import TASKS, batch, model

NAMES = [task.name for task in TASKS]
EXPERTS = ModelConfig().expert_names


@pytest.fixture(autouse=True)
def one_rank() -> None:
    """Of this process, perhaps with a group from a test before: DeepSpeed keeps hold of the first one that it sees."""
    group_of_one()


def test_the_experts_have_names_in_the_order_of_the_gate() -> None:
    assert EXPERTS == ("morphology_3", "morphology_7", "morphology_15", "rhythm_1_2_4", "rhythm_1_3_9")
    assert ModelConfig(paths="multi_model").expert_names == ()


def test_the_load_is_the_mean_gate_over_all_records() -> None:
    net, load = model().eval(), RoutingLoad(NAMES, EXPERTS, torch.device("cpu"))
    gates = [net(batch(beats, seed=seed)).routing.experts for seed, beats in enumerate(((9, 12), (7, 10, 15)))]
    for g in gates:
        load.add(g)
    mean = load.take()
    assert torch.allclose(mean, torch.cat(gates).mean(0))
    values = load.metrics(mean)
    assert sum(values[f"routing/sex/{name}"] for name in EXPERTS) == pytest.approx(1)
    assert values["routing/dead_experts"] == 0
    # The next interval begins at nothing.
    load.add(gates[0])
    assert torch.allclose(load.take(), gates[0].mean(0))


def test_an_expert_that_no_task_uses_raises_the_alarm_once(capsys: pytest.CaptureFixture[str]) -> None:
    load = RoutingLoad(NAMES, EXPERTS, torch.device("cpu"))
    load.add(torch.tensor([[0.326, 0.326, 0.326, 0.02, 0.002], *[[0.3, 0.3, 0.4, 0.0, 0.0]] * 4]).expand(8, -1, -1))
    mean = load.take()
    # One task alone keeps the fourth alive.
    assert load.dead(mean) == ["rhythm_1_3_9"]
    assert load.metrics(mean)["routing/dead_experts"] == 1
    progress = Progress(TrainingConfig(), 10, 0, None, load)
    progress._alarm({"rhythm_1_3_9"})
    progress._alarm({"rhythm_1_3_9"})
    assert capsys.readouterr().out.count("DEAD EXPERT rhythm_1_3_9") == 1


def test_a_model_without_experts_logs_nothing() -> None:
    load = RoutingLoad(NAMES, (), torch.device("cpu"))
    load.add(None)
    assert load.metrics(load.take()) == {}
