"""Each record is fused with the backbones that its gate weighs most, and whoever predicts computes no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ecgmoe.config import RunConfig, tiny
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.gating import FusionGate
from ecgmoe.model.losses import expected_cost_sum
from ecgmoe.variants import VARIANTS, variant
from model_examples import TASKS, Probe, batch, statistics

RECORDS = (10, 14, 8, 11, 9, 12, 7, 13)
NAMES = ("one", "two", "three", "late")


def network(count: int, *, late: tuple[str, ...] = ()) -> ECGMoE:
    torch.manual_seed(0)
    config = ModelConfig(width=16, dropout=0.0, backbones_per_record=count, late_backbones=late)
    net = ECGMoE(
        config,
        tasks=TASKS,
        widths=dict.fromkeys(NAMES, 6),
        statistics=statistics(),
        live={name: Probe() for name in NAMES},
        contrast=True,
    ).eval()
    torch.nn.init.zeros_(net.conditioning.embedding)
    last = net.backbone_gate.network[-1]
    torch.nn.init.normal_(last.weight, std=100.0)
    logits: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda _, __, output: logits.append(output))
    with torch.no_grad():
        net(batch(RECORDS))
        # Records differ by little, and what all have in common would choose for all of them.
        last.bias -= logits[0].mean((0, 1))
    hook.remove()
    return net


def test_the_most_weighed_of_each_record() -> None:
    gate = FusionGate(4, 4, 4)
    gate.network = torch.nn.Identity()
    logits = torch.tensor(
        [[[0.1, 0.2, 0.3, 0.4], [0.1, 0.6, 0.2, 0.1]], [[0.7, 0.1, 0.1, 0.1], [0.4, 0.1, 0.3, 0.2]]]
    ).log()
    assert gate.most_weighed(logits, 1).tolist() == [[False, True, False, False], [True, False, False, False]]
    taken = gate.most_weighed(logits, 1, always=[1, 3])
    assert taken.tolist() == [[False, True, True, True], [True, True, False, True]]
    weights = gate(logits, taken)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2))
    assert torch.allclose(weights[0, 0], torch.tensor([0.0, 0.2, 0.3, 0.4]) / 0.9)
    # A task may give nothing to what all tasks together chose.
    far = torch.tensor([[[0.0, -300.0, -300.0, -300.0]]])
    assert gate(far, torch.tensor([[False, True, True, False]])).tolist() == [[[0.0, 0.5, 0.5, 0.0]]]


def test_the_precision_of_a_pass_does_not_choose() -> None:
    torch.manual_seed(0)
    gate, conditioning = FusionGate(12, 16, 4), torch.randn(2000, 5, 12)
    exact = gate.most_weighed(conditioning, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gate.most_weighed(conditioning, 2), exact)
    torch.nn.init.zeros_(gate.network[-1].weight)
    torch.nn.init.zeros_(gate.network[-1].bias)
    assert gate.most_weighed(conditioning[:1], 2).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(("count", "late"), [(2, ()), (1, ("late",))])
def test_predictions_do_not_depend_on_what_is_left_out(count: int, late: tuple[str, ...]) -> None:
    net = network(count, late=late)
    seen: dict[str, int] = {}
    for name, backbone in net.backbones.items():
        backbone.register_forward_hook(lambda _, inputs, __, name=name: seen.update({name: len(inputs[0])}))
    records = batch(RECORDS)
    everything = net(records)
    assert seen == dict.fromkeys(NAMES, len(RECORDS))
    seen.clear()
    net.computes_chosen_only = True
    chosen = net(records)
    for name, value in everything.predictions.items():
        assert torch.allclose(chosen.predictions[name], value, rtol=1e-5, atol=1e-6), name
    taken = (chosen.routing.backbones > 0).any(1)
    assert torch.equal(chosen.routing.backbones > 0, everything.routing.backbones > 0)
    assert (taken.sum(1) == 2).all()
    assert seen == {name: int(taken[:, k].sum()) for k, name in enumerate(NAMES) if taken[:, k].any()}
    # Not all take the same, or this would show little.
    assert len(taken.unique(dim=0)) > 1
    # In training every rank calls every module, whatever its records.
    seen.clear()
    net.train()(records)
    assert seen == dict.fromkeys(NAMES, len(RECORDS))


def test_the_choice_is_of_all_tasks_whichever_are_asked_for() -> None:
    net, records = network(2), batch(RECORDS)
    whole = net(records)
    for computes_chosen_only in (False, True):
        net.computes_chosen_only = computes_chosen_only
        for task in ("age", "arrhythmia"):
            found = net(records, [task]).predictions[task]
            assert torch.allclose(found, whole.predictions[task], rtol=1e-5, atol=1e-6)


def test_as_many_as_there_are_is_all_of_them() -> None:
    some, every = network(len(NAMES)), network(0)
    every.load_state_dict(some.state_dict())
    records = batch(RECORDS)
    for name, value in every(records).predictions.items():
        assert torch.allclose(some(records).predictions[name], value, rtol=1e-5, atol=1e-6)


def test_the_gate_learns_through_what_was_chosen() -> None:
    net = network(1, late=("late",)).train()
    net(batch(RECORDS)).predictions["age"].sum().backward()
    gradient = net.backbone_gate.network[-1].weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


def test_costs_turn_the_gate_to_cheap_backbones() -> None:
    net, costs, records = network(1, late=("late",)), torch.tensor([0.1, 0.4, 2.5]), batch(RECORDS)
    assert net.choosable == ("one", "two", "three")
    taken = net(records).routing.backbones[:, :, :3].sum(1).argmax(1)
    assert len(taken.unique()) > 1
    assert net(records).routing.preference is None
    net.train()
    optimizer = torch.optim.Adam(net.backbone_gate.parameters(), lr=1.0)
    spent = []
    for _ in range(200):
        preference = net(records).routing.preference
        assert preference is not None
        assert torch.allclose(preference.sum(-1), torch.ones(len(RECORDS)))
        cost = expected_cost_sum(preference, costs)
        spent.append(cost.item() / len(RECORDS))
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    assert spent[0] > 0.3
    assert spent[-1] == pytest.approx(0.1, abs=0.01)
    assert (net.eval()(records).routing.backbones[:, :, :3].sum(1).argmax(1) == 0).all()


def test_backbones_that_cost_alike_cost_one() -> None:
    assert expected_cost_sum(torch.tensor([[0.2, 0.8], [1.0, 0.0]]), torch.ones(2)).item() == pytest.approx(2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the gate over the backbones"):
        ModelConfig(backbones_per_record=2, mixture="moe", paths="multi_model")
    with pytest.raises(ValueError, match="the gate would weigh one alone and learn nothing; choose 2"):
        ModelConfig(backbones_per_record=1)
    with pytest.raises(ValueError, match="backbones_per_record must be at least 0"):
        ModelConfig(backbones_per_record=-1)
    config = tiny()
    with pytest.raises(ValueError, match="backbones_per_record 6 of 5 backbones without heads of their own"):
        replace(config, model=replace(config.model, backbones_per_record=6))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", [*VARIANTS, "single_dlinear", "probe_moment", "untrained_tempo"])
def test_every_variant_can_be_made_of_it(name: str, count: int) -> None:
    config = tiny()
    some = replace(config.model, backbones_per_record=count)
    made = variant(name, replace(config, model=some, loss=replace(config.loss, backbone_cost_weight=0.1)))
    assert from_dict(RunConfig, to_dict(made)) == made
