"""What must hold for the model whatever its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.ecg.record import MISSING
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE, fuse
from ecgmoe.model.frontend import cut_beats
from ecgmoe.model.gating import ExpertGate
from ecgmoe.model.losses import info_nce_sum, task_losses
from ecgmoe.model.output import Output
from model_examples import TASKS, batch, model, statistics


def trained_a_little(net: ECGMoE) -> ECGMoE:
    """B of every adapter away from zero, so that adapters take part."""
    torch.manual_seed(1)
    for layer in (net.trunk.first, net.trunk.second):
        torch.nn.init.normal_(layer.B, std=0.1)
    return net


def close(found: Output, expected: Output) -> None:
    for name, value in expected.predictions.items():
        assert torch.allclose(found.predictions[name], value, rtol=1e-5, atol=1e-6), name
    assert torch.allclose(found.routing.experts, expected.routing.experts, rtol=1e-5, atol=1e-6)


def test_shapes_and_weights_that_sum_to_one() -> None:
    output = model()(batch())
    assert {name: tuple(value.shape) for name, value in output.predictions.items()} == {
        "rr": (4,),
        "age": (4,),
        "sex": (4,),
        "potassium": (4,),
        "arrhythmia": (4, 15),
    }
    assert output.routing.experts.shape == (4, 5, 5)
    assert output.routing.beats.shape == (4, 5, 5, 15)
    for weights in (output.routing.experts, output.routing.paths, output.routing.backbones, output.routing.beats):
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-6)


def test_padding_beats_get_no_attention() -> None:
    attention = model()(batch((5, 12))).routing.beats
    assert attention[0, :, :, 5:12].abs().max() == 0
    assert attention[0, :, :, 12].min() > 0


def loss_of(net: ECGMoE, whole: ECGBatch) -> torch.Tensor:
    output = net(whole)
    losses = task_losses(output, whole, TASKS, statistics(), {task.name: float(len(whole)) for task in TASKS})
    z_m, z_p = output.contrast
    losses["contrastive"] = info_nce_sum(
        z_m, z_p, whole.patient_id, all_m=z_m, all_p=z_p, all_patient=whole.patient_id, first=0, temperature=0.1
    )
    return torch.stack(list(losses.values())).sum()


def test_every_parameter_gets_a_gradient() -> None:
    net = trained_a_little(model())
    loss_of(net, batch()).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not without


def damaged(kind: str) -> ECGBatch:
    whole = batch((1, 12) if kind == "one beat" else (80, 12) if kind == "eighty beats" else (10, 12))
    if kind == "no beat":
        whole.r_peaks[0] = -1
    elif kind == "flat lead":
        whole.signal[0, 4] = 0
    elif kind == "missing lead":
        whole.signal[0, 4] = MISSING
    elif kind == "all missing":
        whole.signal[0] = MISSING
        whole.r_peaks[0] = -1
    return whole


@pytest.mark.parametrize("kind", ["no beat", "one beat", "eighty beats", "flat lead", "missing lead", "all missing"])
def test_damaged_records_give_finite_outputs_and_gradients(kind: str) -> None:
    net, whole = trained_a_little(model()), damaged(kind)
    loss = loss_of(net, whole)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("conditioned", [True, False])
def test_some_tasks_alone_are_predicted_as_among_all(conditioned: bool) -> None:
    config = ModelConfig(width=16, lora_rank=2, dropout=0.0, task_conditioning=conditioned)
    net, whole = trained_a_little(model(config=config)).eval(), batch()
    expected = net(whole).predictions
    for only in (("sex",), ("arrhythmia", "rr"), ("rr", "arrhythmia")):
        found = net(whole, only=only)
        assert set(found.predictions) == set(only)
        for name, value in found.predictions.items():
            assert torch.allclose(value, expected[name], rtol=1e-5, atol=1e-6), name
        assert set(net.in_units(found.predictions)) == set(only)
        # What belongs to the other tasks alone is not computed.
        assert found.routing.experts is not None
        assert found.routing.experts.shape[1] == (len(only) if conditioned else 1)


def test_a_task_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="this model has no task qt: choose of rr, age"):
        model()(batch(), only=("rr", "qt"))


def test_without_task_conditioning_the_tasks_share_their_routing() -> None:
    net = model(config=ModelConfig(width=16, lora_rank=2, dropout=0.0, task_conditioning=False)).eval()
    output = net(batch())
    assert output.routing.experts is not None
    assert output.routing.experts.shape == (4, 1, 5)
    assert len({tuple(value.shape) for value in output.predictions.values()}) == 2


def test_without_gate_the_experts_weigh_alike() -> None:
    routing = model(config=ModelConfig(width=16, dropout=0.0, gate=False)).eval()(batch()).routing
    assert routing.experts is not None
    assert torch.equal(routing.experts, torch.full((4, 5, 5), 0.2))


def test_without_morphology_the_waveform_of_the_beats_does_not_matter() -> None:
    """Rhythm experts see intervals: what is left of the signal reaches the periodic path through x_bar alone."""
    net = model(config=ModelConfig(width=16, dropout=0.0, morphology_kernels=(), gate=False)).eval()
    whole = batch()
    beats = cut_beats(to_millivolt(whole.signal), whole.r_peaks, 96, 40)
    before = net.periodic(beats, slice(None))[0]
    changed = net.periodic(replace(beats, waveform=-3 * beats.waveform), slice(None))[0]
    slower = net.periodic(replace(beats, timing=1.5 * beats.timing), slice(None))[0]
    assert torch.equal(changed, before)
    assert not torch.allclose(slower, before)


def test_a_task_adapter_changes_its_task_alone() -> None:
    net, whole = model().eval(), batch()
    before = net(whole).predictions
    with torch.no_grad():
        net.trunk.second.B[1] += 0.5
    after = net(whole).predictions
    changed = [task.name for task in TASKS if not torch.equal(before[task.name], after[task.name])]
    assert changed == [TASKS[1].name]


def test_rr_starts_at_the_detectors_median() -> None:
    net = model().eval()
    torch.nn.init.zeros_(net.heads["rr"].weight)
    torch.nn.init.zeros_(net.heads["rr"].bias)
    whole = batch((2,))
    whole.r_peaks[0, :2] = torch.tensor([1000, 1450])
    assert net.in_units(net(whole).predictions)["rr"].item() == pytest.approx(900, abs=1e-3)


def test_equal_gates_leave_the_features_as_they_are() -> None:
    F_m, F_periodic = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    fused = fuse(F_m, F_periodic, torch.full((2, 5, 3), 1 / 3), torch.full((2, 5, 2), 0.5))
    expected = torch.cat([F_m.flatten(1)[:, None].expand(-1, 5, -1), F_periodic], -1)
    assert torch.allclose(fused, expected)


def test_frozen_backbones_stay_in_evaluation_mode() -> None:
    net = model()
    net.backbones.requires_grad_(False)
    net.train()
    assert net.training
    assert not net.backbones["probe"].training


def test_no_batch_normalisation_anywhere() -> None:
    assert not [name for name, module in model().named_modules() if "BatchNorm" in type(module).__name__]


def test_the_output_of_a_seed_is_reproducible(tmp_path: Path) -> None:
    close(model(seed=5)(batch()), model(seed=5)(batch()))


def test_the_gates_temperature_divides_its_logits() -> None:
    conditioning = torch.randn(3, 2, 7)
    gates = {}
    for temperature in (1.0, 2.0):
        torch.manual_seed(0)
        gates[temperature] = ExpertGate(2, 7, 5, temperature)(conditioning, slice(None)).double()
    expected = (gates[1.0].log() / 2).softmax(-1)
    torch.testing.assert_close(gates[2.0], expected, rtol=1e-5, atol=1e-6)
    assert (gates[2.0].amax(-1) < gates[1.0].amax(-1)).all()
