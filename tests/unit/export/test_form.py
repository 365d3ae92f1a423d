"""The inference form is the same function as the model, and one graph for `torch.compile`."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.backbones.timesnet import Architecture, TimesBlock, TimesNet
from ecgmoe.export.form import SHARED_FROM, MergedTaskLinear, inference_form
from ecgmoe.export.times_block import GatheredTimesBlock
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.fusion import TaskLoRALinear
from export_examples import BACKBONES, EveryTenth, backbone, model_of, waves

TOLERANCE = 1e-5
"""Of the largest value: some ten roundings of fp32 (6e-8) in sums of up to 5000 numbers."""


def near(got: Tensor, want: Tensor, tolerance: float = TOLERANCE) -> None:
    assert torch.isfinite(got).all()
    assert float((got - want).abs().max()) <= tolerance * float(want.abs().max())


def batch_of(signal: Tensor) -> ECGBatch:
    nobody = torch.zeros(len(signal), dtype=torch.int64)
    return ECGBatch(signal=signal, r_peaks=EveryTenth()(signal), study_id=nobody, patient_id=nobody)


@pytest.fixture(autouse=True)
def forget_graphs() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_in_its_inference_form_is_the_same(name: str) -> None:
    model = model_of((name,))
    before = copy.deepcopy(model.state_dict())
    form = inference_form(model)
    x = to_millivolt(waves(3))
    x[1, 5] = 1.5  # An electrode that is off leaves a constant.
    with torch.inference_mode():
        near(form.live[name](x), model.live[name](x))
    assert not [each for each in form.modules() if isinstance(each, BaseTunerLayer | TimesBlock)]
    # The model that was given stays as it was, to its names.
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("width", [16, SHARED_FROM])
def test_a_whole_model_is_the_same(width: int) -> None:
    model = model_of(("dlinear", "timesnet"), width=width)
    form = inference_form(model)
    batch = batch_of(waves(4))
    with torch.inference_mode():
        for only in (None, ["age", "arrhythmia"]):
            got, want = form(batch, only), model(batch, only)
            assert set(got.predictions) == set(want.predictions)
            for task, value in want.predictions.items():
                near(got.predictions[task], value)
    kind = MergedTaskLinear if width < SHARED_FROM else TaskLoRALinear
    assert isinstance(form.trunk.first, kind)
    assert isinstance(form.trunk.second, kind)


def test_adapters_of_rank_0_are_left() -> None:
    assert isinstance(inference_form(model_of(("dlinear",), lora_rank=0)).trunk.first, TaskLoRALinear)


def test_merged_adapters_differ_from_task_to_task() -> None:
    merged = inference_form(model_of(("dlinear",))).trunk.first.get_buffer("weight")
    assert all(float((merged[0] - other).abs().max()) > 1e-3 for other in merged[1:])


@pytest.mark.parametrize(("samples", "horizon", "periods", "kernels"), [(250, 0, 2, 3), (96, 0, 5, 6), (60, 37, 3, 2)])
def test_a_gathered_times_block_folds_as_the_convolutions_do(
    samples: int, horizon: int, periods: int, kernels: int
) -> None:
    length = samples + horizon
    torch.manual_seed(2)
    block = TimesBlock(Architecture(samples=samples, width=4, hidden=6, periods=periods, kernels=kernels)).eval()
    time = torch.arange(length)[None, :, None] / length
    # Each record has other periods, among them the longest, the shortest and one that does not divide the length.
    rates = torch.tensor([1.0, 2, 3, 7, 11, length // 2])[:, None, None]
    x = torch.sin(2 * torch.pi * rates * time + torch.arange(4)) + 0.1 * torch.randn(len(rates), length, 4)
    gathered = GatheredTimesBlock(block, length).eval()
    with torch.inference_mode():
        assert torch.equal(gathered.periods(x)[0], block.periods(x)[0])
        assert len(block.periods(x)[0].unique()) > 3
        near(gathered(x), block(x))


def test_the_inference_form_of_a_times_block_has_no_periods_of_a_batch() -> None:
    form = inference_form(model_of(("timesnet",)))
    net = form.live["timesnet"]
    assert isinstance(net, TimesNet)
    with pytest.raises(ValueError, match="periods of each record"):
        net.encode(torch.randn(2, 12, net.samples), batch_periods=True)


class Whole(nn.Module):
    """What is compiled: from tensors to tensors."""

    def __init__(self, form: ECGMoE) -> None:
        super().__init__()
        self.form = form

    def forward(self, signal: Tensor, r_peaks: Tensor, nobody: Tensor) -> dict[str, Tensor]:
        batch = ECGBatch(signal=signal, r_peaks=r_peaks, study_id=nobody, patient_id=nobody)
        return self.form(batch).predictions


LONG = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("names", "backend"),
    [
        (("timesnet",), "aot_eager"),
        pytest.param(BACKBONES, "aot_eager", marks=LONG),
        pytest.param(("dlinear", "timesnet"), "inductor", marks=LONG),
    ],
    ids=["timesnet", "all", "to C++"],
)
def test_torch_compile_takes_it_as_one_graph_for_every_batch_size(names: tuple[str, ...], backend: str) -> None:
    model = model_of(names, **({} if len(names) > 1 else {"paths": "multi_model", "mixture": "concat"}))
    # Fails at a graph break. The backend aot_eager runs the graph as it is.
    compiled = torch.compile(Whole(inference_form(model)), fullgraph=True, dynamic=True, backend=backend)
    with torch.inference_mode():
        for count in (3, 5, 2):
            batch = batch_of(waves(count))
            with torch.compiler.set_stance("default" if count == 3 else "fail_on_recompile"):
                got = compiled(batch.signal, batch.r_peaks, batch.study_id)
            for task, value in model(batch).predictions.items():
                near(got[task], value)


def test_the_model_itself_is_not_one_graph() -> None:
    # Or the form would not be needed: TimesNet asks which periods a batch has.
    with pytest.raises(Exception, match=r"periods\.unique"):
        torch.compile(backbone("timesnet"), fullgraph=True, backend="aot_eager")(torch.randn(2, 12, 5000))
