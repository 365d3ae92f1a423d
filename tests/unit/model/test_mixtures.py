"""What ECG-MoE is compared with keeps the same promises: no neighbour, no other task and no padding shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ecgmoe.model.config import ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.mixtures import MIXTURES, CausalMixture, SparseMixture, keep_top
from model_examples import TASKS, Probe, batch, statistics

SMALL = ModelConfig(width=16, lora_rank=2, dropout=0.0, paths="multi_model", late_rr=False)


def net(name: str, **changes: Any) -> ECGMoE:
    torch.manual_seed(0)
    return ECGMoE(
        replace(SMALL, mixture=name, **changes),  # type: ignore[arg-type]
        tasks=TASKS,
        widths={"probe": 6, "stored": 5},
        statistics=statistics(),
        live={"probe": Probe()},
    ).eval()


@pytest.mark.parametrize("name", MIXTURES)
def test_beats_do_not_reach_it(name: str) -> None:
    model, whole = net(name), batch()
    expected = model(whole).predictions
    whole.r_peaks = torch.full_like(whole.r_peaks, -1)
    for task, value in model(whole).predictions.items():
        assert torch.equal(value, expected[task]), task


@pytest.mark.parametrize("name", MIXTURES)
def test_all_weights_train(name: str) -> None:
    # With all experts in use: an expert that nobody chose has no gradient, and that is what sparse means.
    model = net(name, top_k=5).train()
    for each in model.modules():
        if hasattr(each, "B") and isinstance(each.B, torch.nn.Parameter):
            torch.nn.init.normal_(each.B, std=0.1)
    sum(value.square().sum() for value in model(batch()).predictions.values()).backward()  # type: ignore[union-attr]
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_sparse_mixture_uses_k_experts_and_knows_the_task() -> None:
    g = net("moe").forward(batch()).routing.experts
    assert g is not None
    assert g.shape == (4, 5, 5)
    assert ((g > 0).sum(-1) == 2).all()
    assert torch.allclose(g.sum(-1), torch.ones(4, 5))
    assert not torch.equal(g[:, 0], g[:, 1])


def test_the_k_largest_are_kept() -> None:
    assert keep_top(torch.tensor([0.1, 0.5, 0.3, 0.1]), 2).tolist() == pytest.approx([0, 0.625, 0.375, 0])


def test_in_the_causal_mixture_a_token_sees_no_later_one() -> None:
    torch.manual_seed(0)
    mixture = CausalMixture(replace(SMALL, mixture="time_moe"), 2, 5).eval()
    attended = []
    mixture.mixture_norm.register_forward_hook(lambda module, inputs, output: attended.append(inputs[0]))
    tokens = torch.randn(2, 7, 16)
    other = tokens.clone()
    other[:, 4:] = torch.randn(2, 3, 16)
    mixture([tokens], slice(None))
    mixture([other], slice(None))
    assert torch.allclose(attended[0][:, :4], attended[1][:, :4], atol=1e-6)
    assert (attended[0][:, 4:] - attended[1][:, 4:]).abs().amax((0, 2)).min() > 0.1


def test_every_expert_is_computed_whatever_is_chosen() -> None:
    """Ranks that call different experts would wait for each other."""
    torch.manual_seed(0)
    mixture = SparseMixture(replace(SMALL, mixture="moe", top_k=1), 1, 5)
    called = []
    for number, expert in enumerate(mixture.experts):
        expert.register_forward_hook(lambda *_, number=number: called.append(number))
    mixture([torch.randn(3, 4, 16)], slice(None))
    assert sorted(called) == [0, 1, 2, 3, 4]


def test_a_mixture_is_stored_and_loaded(tmp_path: Path) -> None:
    from ecgmoe.backbones.config import BackboneConfig
    from ecgmoe.backbones.registry import build
    from ecgmoe.model.folder import load_model, model_config, save_model
    from ecgmoe.tasks import TASK_NAMES

    backbone = build(BackboneConfig(name="dlinear"))
    config = replace(SMALL, mixture="moe")
    model = ECGMoE(
        config, tasks=TASKS, widths={"dlinear": backbone.width}, statistics=statistics(), live={"dlinear": backbone}
    ).eval()
    content = model_config(
        config, tasks=TASK_NAMES, taxonomy="rhythm15", backbones={"dlinear": backbone}, statistics=statistics()
    )
    save_model(tmp_path, dict(model.state_dict()), content, {})
    loaded, _ = load_model(tmp_path)
    whole = batch()
    whole.features = {}
    for task, value in model(whole).predictions.items():
        assert torch.equal(loaded(whole).predictions[task], value), task


def test_wrong_combinations_are_refused() -> None:
    with pytest.raises(ValueError, match="mixture 'moe' sees no beats: set paths='multi_model'"):
        ModelConfig(mixture="moe")
    with pytest.raises(ValueError, match=r"top_k must be between 1 and mixture_experts \(5\), got 6"):
        ModelConfig(top_k=6)
