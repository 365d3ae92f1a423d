"""The prediction of memory, worked out by hand; and the forward pass that it is measured with, which leaves no trace."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.benchmark.variants import neutral_statistics, noise
from ecgmoe.config import RunConfig
from ecgmoe.model.config import ModelConfig
from ecgmoe.training.activations import kept_bytes, measure_forward
from ecgmoe.training.build import build_backbones, build_model
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.memory import MemoryPlan, Sizes, predict
from ecgmoe.training.memory_report import describe, free_memory, shortage, sizes_of

# 100 elements of which 80 train, 2 ranks, AdamW, 3 records of 40 bytes (30 elements); the bucket holds all.
SIZES = Sizes(parameters=100, trained=80, workers=2, records=3, activation_bytes=40, bucket=1000)
EVERY = (0, 1, 2, 3, "ddp")


def of(*elements: float) -> MemoryPlan:
    names = ("parameters", "optimiser", "gradients", "buffers", "activations", "total")
    return MemoryPlan(**{name: round(4 * value) for name, value in zip(names, elements, strict=True)})


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        # Moments 2 x 80; gradients and their flat copy.
        (0, of(100, 160, 80, 80, 30, 100 + 160 + 80 + 80)),
        # Moments and master weights of half: 3 x 40; gradients in the bucket and their flat copy.
        (1, of(100, 120, 80, 80, 30, 100 + 120 + 80 + 80)),
        (2, of(100, 120, 40, 160, 30, 100 + 120 + 80 + 80)),
        # Half of all; gradients of half, a bucket, all weights gathered, and the flat buffer that they came in.
        (3, of(50, 120, 40, 80 + 100 + 100, 30, 50 + 120 + 40 + 80 + 100 + 100 + 30)),
        # Gradients are the buckets.
        ("ddp", of(100, 160, 80, 0, 30, 100 + 160 + 80 + 30)),
    ],
)
def test_by_hand(stage: Any, expected: MemoryPlan) -> None:
    assert predict(stage, SIZES) == expected


def test_small_buckets_by_hand() -> None:
    # Stage 1: all gradients, and the flat copy of a bucket or the partition beside them, whichever is more.
    assert predict(1, replace(SIZES, workers=8, bucket=40)).total == 4 * (100 + 30 + 80 + 40)
    assert predict(1, replace(SIZES, workers=8, bucket=5, records=0)).total == 4 * (100 + 30 + 80 + 10)
    small = replace(SIZES, bucket=10)
    # Stage 2: the update is the peak: the partition's gradients, their flat copy and two temporaries.
    assert predict(2, small).total == 4 * (100 + 120 + 4 * 40)
    # With many records it is the backward pass: bucket, partition and activations.
    many = replace(small, activation_bytes=4000)
    assert predict(2, many).total == 4 * (100 + 120 + 10 + 40 + 3000)
    assert predict(2, replace(many, accumulates=True)).total == predict(2, many).total + 4 * 40
    assert predict(3, small).total == 4 * (50 + 120 + 40 + 10 + 100 + 10 + 30)


def test_a_table_that_is_never_read_is_never_gathered() -> None:
    assert predict(3, SIZES).total - predict(3, replace(SIZES, gathered=90)).total == 4 * 2 * 10


@pytest.mark.parametrize("stage", EVERY)
def test_frozen_parameters_add_no_optimizer_state_and_no_gradients(stage: Any) -> None:
    before, after = predict(stage, SIZES), predict(stage, replace(SIZES, parameters=100 + 1000, gathered=100))
    assert (after.optimiser, after.gradients, after.activations) == (
        before.optimiser,
        before.gradients,
        before.activations,
    )
    assert after.total - before.total == after.parameters - before.parameters == 4 * (500 if stage == 3 else 1000)


def test_nothing_trains() -> None:
    for stage in EVERY:
        found = predict(stage, replace(SIZES, trained=0, records=0, gathered=0))  # type: ignore[arg-type]
        assert (found.optimiser, found.gradients) == (0, 0)
        assert found.total == found.parameters


@pytest.mark.parametrize("workers", [2, 4, 8, 64])
def test_what_stands_between_steps_shrinks_with_the_stage(workers: int) -> None:
    # With two workers, a share of moments and master weights (3/2) is less than two moments whole.
    plans = [predict(stage, replace(SIZES, workers=workers)) for stage in (0, 1, 2, 3)]
    for part in ("optimiser", "gradients"):
        values = [getattr(plan, part) for plan in plans]
        assert values == sorted(values, reverse=True)
    standing = [plan.parameters + plan.optimiser for plan in plans]
    assert standing == sorted(standing, reverse=True)


@pytest.mark.parametrize("stage", EVERY)
def test_more_of_anything_is_never_less(stage: Any) -> None:
    total = predict(stage, SIZES).total
    more: list[dict[str, Any]] = [{"trained": 90}, {"parameters": 120}, {"records": 9}, {"moments": 3}, {"gpu": True}]
    for change in more:
        assert predict(stage, replace(SIZES, **change)).total >= total, change
    assert predict(stage, replace(SIZES, moments=1)).optimiser < predict(stage, SIZES).optimiser


def test_large_model_at_stage_3_gathers_a_part() -> None:
    sizes = Sizes(parameters=10**10, trained=10**10, workers=64, bucket=50_000_000)
    assert predict(3, sizes).total < predict(2, sizes).total < predict(1, sizes).total < predict(0, sizes).total


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"trained": 101}, "trained"),
        ({"workers": 0}, "workers"),
        ({"records": -1}, "records"),
        ({"bucket": 0}, "bucket"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(SIZES, **change)


def test_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="stage must be one of 0, 1, 2, 3, ddp, got 4"):
        predict(4, SIZES)  # type: ignore[arg-type]


def test_kept_bytes_of_a_known_function() -> None:
    x = torch.randn(10, 7, requires_grad=True)
    # exp keeps its output, sin its input: the same storage.
    assert kept_bytes(lambda: x.exp().sin()) == 10 * 7 * 4
    assert kept_bytes(lambda: x + 1) == 0
    assert kept_bytes(lambda: (x * x).sum()) == 10 * 7 * 4
    assert kept_bytes(lambda: (x * x).sum(), but=[x]) == 0


def test_kept_bytes_keeps_nothing_itself() -> None:
    x = torch.randn(10, requires_grad=True)
    seen = []

    def forward() -> torch.Tensor:
        output = x.exp()
        seen.append(weakref.ref(output))
        return output

    kept_bytes(forward)
    assert seen[0]() is None


CONFIG = RunConfig(
    backbones=(BackboneConfig(name="dlinear"), BackboneConfig(name="timesnet", mode="frozen", allow_random=True)),
    model=ModelConfig(width=16, dropout=0.5),
    training=TrainingConfig(num_workers=2, global_batch=16, accumulation=2, optimizer="sgd"),
)


@pytest.fixture
def model() -> nn.Module:
    return build_model(CONFIG, neutral_statistics(CONFIG.task_table()), build_backbones(CONFIG))


def test_measuring_a_forward_pass_leaves_no_trace(model: nn.Module) -> None:
    model.train(False)
    next(model.children()).training = True
    modes = [module.training for module in model.modules()]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    found = measure_forward(model, noise(2))
    assert torch.equal(torch.rand(4), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert found.kept_bytes > 0
    # Nearly every parameter belongs to a module that ran; the fusion reads its queries itself.
    assert 0.99 < found.read / sum(parameter.numel() for parameter in model.parameters()) <= 1


def test_sizes_of_a_run(model: nn.Module) -> None:
    sizes = sizes_of(model, CONFIG.training, noise(2))
    assert (sizes.workers, sizes.moments, sizes.records, sizes.accumulates) == (2, 1, 4, True)
    frozen = sum(parameter.numel() for parameter in build_backbones(CONFIG)["timesnet"].parameters())
    assert sizes.parameters - sizes.trained == frozen > 0
    # bf16 halves most of what is kept.
    half = sizes_of(model, replace(CONFIG.training, precision="bf16"), noise(2))
    assert 0.3 < half.activation_bytes / sizes.activation_bytes < 0.95


def test_modules_that_do_not_run_are_not_read() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(5, 4)

        def forward(self, batch: Any) -> torch.Tensor:
            return self.used(torch.ones(len(batch), 3))

    assert measure_forward(Half(), noise(2)).read == 3 * 2 + 2


def test_the_line_that_a_person_reads() -> None:
    sizes = Sizes(
        parameters=30_000_000, trained=25_000_000, workers=2, records=2, activation_bytes=2e7, bucket=50_000_000
    )
    line = describe(predict(1, sizes), "ZeRO 1")
    assert line == (
        "memory per worker, predicted: 120 MB parameters, 150 MB optimiser, 100 MB gradients, 100 MB buffers, "
        "40 MB activations; 470 MB in all at the peak of a step, at ZeRO 1"
    )


def test_too_little_memory_names_what_to_turn_down() -> None:
    state = Sizes(parameters=10**9, trained=10**9, workers=8, records=2, activation_bytes=1e7, bucket=50_000_000)
    assert shortage(state, 0, predict(0, state).total) is None
    said = shortage(state, 0, 2_000_000_000)
    assert said
    assert "--training.zero-stage 3: 6.9 GB" in said
    assert "2.0 GB are free" in said
    assert "--training.accumulation" not in said, "smaller micro-batches would not help"
    activations = replace(state, parameters=10**7, trained=10**7, records=64, activation_bytes=1e8)
    said = shortage(activations, 2, 2_000_000_000)
    assert said
    assert "--training.accumulation" in said
    assert "gradient-checkpointing" in said


def test_free_memory_is_what_the_machine_has() -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total
