"""What training hides: beats, backbones, the periodic path; in evaluation nothing."""

from __future__ import annotations

import pytest
import torch

from ecgmoe.model.config import ModelConfig
from ecgmoe.model.experts import PeriodicExperts
from ecgmoe.model.frontend import Beats
from model_examples import batch, model


def beats() -> Beats:
    torch.manual_seed(0)
    mask = torch.ones(40, 10, dtype=torch.bool)
    mask[:, 8:] = False
    return Beats(waveform=torch.randn(40, 10, 12, 32), timing=torch.rand(40, 10, 6), mask=mask)


def test_hidden_beats_get_no_attention_and_are_drawn_anew() -> None:
    torch.manual_seed(1)
    experts = PeriodicExperts(width=16, heads=2, tasks=2, kernels=(3,), dilations=((1,),), beat_dropout=0.4)
    records = beats()
    seen = [experts(records, slice(None))[1][..., :-1] > 0 for _ in range(2)]
    for each in seen:
        assert not each[..., 8:].any()
        # 320 beats: a standard error of 0.027.
        assert float(each[:, 0, 0, :8].float().mean()) == pytest.approx(0.6, abs=0.1)
        # One draw for all experts and tasks.
        assert (each == each[:, :1, :1]).all()
    assert (seen[0] != seen[1]).any()
    experts.eval()
    assert (experts(records, slice(None))[1][..., :8] > 0).all()


@pytest.mark.parametrize("name", ["backbone_dropout", "periodic_dropout"])
def test_a_hidden_part_is_zero_in_the_fusion_and_all_of_it_is_there_in_evaluation(
    name: str,
) -> None:
    net = model(config=ModelConfig(width=16, dropout=0.0, **{name: 0.5}))
    seen = []
    net.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    records = batch((10,) * 64)
    net.train()
    net(records)
    net.eval()
    net(records)
    trained, whole = (each.unflatten(-1, (-1, 16)) for each in seen)
    count = whole.shape[2] - 1
    parts = slice(0, count) if name == "backbone_dropout" else slice(count, None)
    rest = slice(count, None) if name == "backbone_dropout" else slice(0, count)
    hidden = (trained[:, :, parts] == 0).all(-1)
    assert 0.3 < float(hidden.float().mean()) < 0.7
    # What stays is doubled, so that its mean is that of evaluation.
    kept = ~hidden[..., None]
    torch.testing.assert_close(trained[:, :, parts] * kept, 2 * whole[:, :, parts] * kept)
    torch.testing.assert_close(trained[:, :, rest], whole[:, :, rest])
    assert not (whole == 0).all(-1).any()


@pytest.mark.parametrize("name", ["dropout", "beat_dropout", "backbone_dropout", "periodic_dropout"])
def test_a_dropout_is_a_share(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\), got 1\.0"):
        ModelConfig(**{name: 1.0})


@pytest.mark.parametrize("real", [0, 8])
def test_beats_that_are_not_there_need_not_be_computed(real: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an exported graph computes them, and as training leaves them out: outputs and gradients."""
    torch.manual_seed(1)
    experts = PeriodicExperts(width=16, heads=2, tasks=2, kernels=(3, 7), dilations=((1,),)).double()
    records = beats()
    records = Beats(
        waveform=records.waveform.double(),
        timing=records.timing.double(),
        mask=records.mask & (torch.arange(10) < real),
    )
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        experts.zero_grad()
        read, attention = experts(records, slice(None))
        read.square().sum().backward()
        found.append([read, attention, *(parameter.grad for parameter in experts.parameters())])
    for packed, whole in zip(*found, strict=True):
        torch.testing.assert_close(packed, whole, rtol=1e-10, atol=1e-12)
