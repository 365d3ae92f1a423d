"""Backbones with heads of their own: what the model predicts is the mean of the opinions, and each opinion has the losses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ecgmoe.config import PRESETS, tiny
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.losses import task_losses, task_weight
from ecgmoe.variants import variant
from model_examples import TASKS, batch, model, statistics

LATE = ModelConfig(width=16, lora_rank=2, dropout=0.0, late_backbones=("probe", "stored"))


@pytest.mark.parametrize(("weight", "shares"), [(1.0, (1 / 3, 1 / 3, 1 / 3)), (2.0, (0.2, 0.4, 0.4))])
def test_a_prediction_is_the_mean_of_the_opinions(weight: float, shares: tuple[float, ...]) -> None:
    output = model(config=replace(LATE, late_weight=weight))(batch())
    assert len(output.opinions) == 3
    for task in TASKS:
        opinions = [each[task.name] for each in output.opinions]
        weighed = sum(share * each for share, each in zip(shares, opinions, strict=True))
        torch.testing.assert_close(output.predictions[task.name], weighed)
        assert not torch.equal(opinions[0], opinions[1])


def test_an_opinion_is_that_of_its_backbone_alone() -> None:
    net = model(config=LATE).eval()
    records = batch()
    changed = replace(records, features={"stored": records.features["stored"] + 1})
    # A constant is normalised away over the channels; a slope over them is not.
    changed.features["stored"] += torch.linspace(0, 2, 5).half()
    before, after = net(records).opinions, net(changed).opinions
    for task in ("age", "arrhythmia"):
        assert torch.equal(before[1][task], after[1][task])
        assert not torch.equal(before[2][task], after[2][task])


def test_each_opinion_has_the_losses() -> None:
    net, records = model(config=LATE), batch()
    totals = {task.name: float(task_weight(task, records.labels[task.name], statistics()).sum()) for task in TASKS}
    output = net(records)
    losses = task_losses(output, records, TASKS, statistics(), totals)
    alone = [
        task_losses(replace(output, opinions=(each,)), records, TASKS, statistics(), totals) for each in output.opinions
    ]
    for task in TASKS:
        torch.testing.assert_close(losses[task.name], sum(each[task.name] for each in alone) / 3)
    losses["age"].backward()
    assert net.late_heads["probe"]["age"].weight.grad.abs().sum() > 0
    assert net.heads["age"].weight.grad.abs().sum() > 0


def test_some_tasks_alone_are_those_of_all() -> None:
    net, records = model(config=LATE).eval(), batch()
    torch.testing.assert_close(net(records, only=("sex",)).predictions["sex"], net(records).predictions["sex"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": "periodic"}, "late_backbones probe: the periodic path alone has no backbone"),
        ({"paths": "multi_model", "mixture": "concat"}, "the heads of mixture 'concat' read the backbones anyway"),
        ({"late_backbones": ("probe", "probe")}, "late_backbones: one is named twice"),
        ({"late_weight": 0.0}, r"late_weight must be above 0, got 0.0 \(no late_backbones leaves"),
        ({"late_weight": math.nan}, "late_weight must be above 0, got nan"),
        (
            {"late_backbones": (), "late_weight": 3.0},
            "late_weight 3 without late_backbones weighs nothing: leave it at 1",
        ),
    ],
)
def test_late_backbones_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"late_backbones": ("probe",), **options})  # type: ignore[arg-type]


def test_a_late_backbone_that_is_not_there_is_named() -> None:
    config = tiny()
    with pytest.raises(ValueError, match=r"late_backbones names resnet, which is not among timesnet, dlinear"):
        replace(config, model=replace(config.model, late_backbones=("resnet",)))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "name",
    ["no_multi_model_path", "no_periodic_path", "no_late_backbones", "multi_task_baseline", "moe", "single_dlinear"],
)
def test_variants_keep_late_backbones_where_they_can(preset: str, name: str) -> None:
    config = PRESETS[preset]()
    found = variant(name, config)
    kept = name in ("no_periodic_path", "moe")
    assert found.model.late_backbones == (config.model.late_backbones if kept else ())
    assert found.model.late_weight == (config.model.late_weight if kept else 1.0)
