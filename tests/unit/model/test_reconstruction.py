"""What masked reconstruction hides, what the encoder sees of it, and what counts as an error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ecgmoe.backbones.base import Architecture, Backbone
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.registry import build
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.ecg.record import MISSING
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.reconstruction import HIDDEN, PATCHES, UNIT_MV, MaskedReconstruction, hide
from model_examples import batch


class Echo(Backbone):
    """Gives back what it sees, and keeps it."""

    leads, normalisation = "together", "none (mV)"

    def __init__(self) -> None:
        super().__init__(Architecture(samples=1000, tokens=1), width=12)

    def along_time(self, x_BCS: Tensor) -> Tensor:
        self.seen = x_BCS
        return x_BCS

    def encode(self, x_BCS: Tensor) -> Tensor:
        return x_BCS.transpose(1, 2)


def example(records: int = 4) -> ECGBatch:
    return batch((10,) * records)


def test_the_encoder_sees_nothing_of_what_is_hidden() -> None:
    echo = Echo()
    hidden = hide(example(), seed=0, epoch=0)
    MaskedReconstruction({"echo": echo})(hidden)
    mask = hidden.features[HIDDEN].repeat_interleave(1000 // PATCHES, 2)
    assert mask.any()
    assert not mask.all()
    assert not echo.seen[mask].any()
    own = echo.own_input(to_millivolt(hidden.signal))
    assert torch.equal(echo.seen[~mask], own[~mask])


def test_errors_are_over_what_is_hidden_of_each_record() -> None:
    model, hidden = MaskedReconstruction({"echo": Echo()}), hide(example(), seed=0, epoch=0)
    for parameter in model.decoders.parameters():
        torch.nn.init.zeros_(parameter)
    own = Echo().own_input(to_millivolt(hidden.signal))
    mask = hidden.features[HIDDEN].repeat_interleave(1000 // PATCHES, 2)
    for found, x, where in zip(model(hidden)["echo"].detach(), own, mask, strict=True):
        assert float(found) == pytest.approx(float(x[where].abs().mean()) / UNIT_MV, rel=1e-5)


def test_a_decoder_puts_samples_where_they_belong() -> None:
    """The residual network's features stand for eight samples each: a decoder that is taught one step fills in that step."""
    network = build(
        BackboneConfig(name="residual_network", implementation="ecgmoe.backbones.residual_network:ResidualNetwork")
    )
    model, hidden = MaskedReconstruction({"network": network}), hide(example(1), seed=0, epoch=0)
    hidden.features[HIDDEN] = torch.zeros(1, 12, PATCHES, dtype=torch.bool)
    hidden.features[HIDDEN][0, 3, 7] = True
    decoder = model.decoders["network"]
    own = network.own_input(to_millivolt(hidden.signal))[0, 3, 7 * 25 : 8 * 25]
    for parameter in decoder.parameters():
        torch.nn.init.zeros_(parameter)
    step = 1000 // network.along_time(torch.zeros(1, 12, 1000)).shape[-1]
    # Lead 3, all samples of a step: the mean of what is hidden.
    decoder.bias.data[3 * step : 4 * step] = own.mean()
    found = float(model(hidden)["network"].detach()[0])
    assert found == pytest.approx(float((own - own.mean()).abs().mean()) / UNIT_MV, rel=1e-5)


def test_it_is_drawn_from_seed_epoch_and_study() -> None:
    records = example()
    first = hide(records, seed=1, epoch=2)
    again = hide(records.rows(2, 4), seed=1, epoch=2)
    assert torch.equal(first.features[HIDDEN][2:], again.features[HIDDEN])
    assert torch.equal(first.signal[2:], again.signal)
    for other in (hide(records, seed=1, epoch=3), hide(records, seed=2, epoch=2)):
        assert not torch.equal(first.features[HIDDEN], other.features[HIDDEN])
        assert not torch.equal(first.signal, other.signal)


def test_what_is_missing_stays_missing() -> None:
    records = example()
    records.signal[:, 5] = MISSING
    records.signal[:, 6, 100:200] = MISSING
    changed = hide(records, seed=0, epoch=0).signal
    assert (changed[:, 5] == MISSING).all()
    assert ((changed[:, 6] == MISSING).sum(1) == 100).all()


def test_nobody_knows_what_was_missing() -> None:
    records = example()
    records.signal[:, 5] = MISSING
    hidden = hide(records, seed=0, epoch=0)
    only = torch.zeros_like(hidden.features[HIDDEN])
    only[:, 5] = True
    hidden.features[HIDDEN] = only
    assert not MaskedReconstruction({"echo": Echo()})(hidden)["echo"].any()


def test_an_encoder_without_features_along_time_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"dlinear \(DLinear\) has no features along time .* leave it out of pretraining\.backbones"
    ):
        MaskedReconstruction({"dlinear": build(BackboneConfig(name="dlinear", mode="full"))})
