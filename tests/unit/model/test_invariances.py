"""What must not change a prediction: the order of records and tasks, padding, the size of the batch, other tasks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecgmoe.model.config import ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.tasks import Task
from model_examples import TASKS, batch, model

RELATIVE = 1e-5
"""Of fp32 sums that a matrix product may take in another order for another shape."""
BY_TASK = {"conditioning.embedding", "gate.U", "periodic.query", "mixture.query", "mixture.embedding"} | {
    f"trunk.{layer}.{matrix}" for layer in ("first", "second") for matrix in "AB"
}
"""Weights whose first axis is the task."""
CONFIGS = {
    "ecg_moe": ModelConfig(width=16, lora_rank=2),
    **{
        name: ModelConfig(width=16, lora_rank=2, mixture=name, paths="multi_model", late_rr=False)  # type: ignore[arg-type]
        for name in ("concat", "moe", "time_moe", "self_attn", "cross_attn")
    },
}
MODELS = st.sampled_from(sorted(CONFIGS))
RECORDS = st.lists(st.integers(0, 50), min_size=2, max_size=6)
"""Beats of each record."""
some = settings(max_examples=25, deadline=None, derandomize=True)


def net_of(name: str, tasks: Sequence[Task] = TASKS) -> ECGMoE:
    """With adapters away from zero, so that they take part."""
    net = model(config=CONFIGS[name], tasks=tasks)
    torch.manual_seed(1)
    for key, parameter in net.named_parameters():
        if key.startswith("trunk.") and key.endswith(".B"):
            torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


@torch.inference_mode()
def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert (found[name] - value).norm() <= RELATIVE * value.norm(), name


@some
@given(MODELS, RECORDS, st.randoms(use_true_random=False))
def test_order_of_records(name: str, beats: list[int], random) -> None:  # type: ignore[no-untyped-def]
    net, whole = net_of(name), batch(tuple(beats))
    order = random.sample(range(len(beats)), len(beats))
    expected = {task: value[order] for task, value in net(whole).predictions.items()}
    check_equal(net(whole._each(lambda tensor: tensor[order])).predictions, expected)


@some
@given(MODELS, RECORDS, st.integers(1, 30))
def test_padding_beats(name: str, beats: list[int], more: int) -> None:
    net, whole = net_of(name), batch(tuple(beats))
    expected = net(whole).predictions
    whole.r_peaks = torch.nn.functional.pad(whole.r_peaks, (0, more), value=-1)
    check_equal(net(whole).predictions, expected)


@some
@given(MODELS, RECORDS, st.integers(1, 5))
def test_size_of_the_batch(name: str, beats: list[int], size: int) -> None:
    net, whole = net_of(name), batch(tuple(beats))
    parts = [net(whole.rows(start, start + size)).predictions for start in range(0, len(beats), size)]
    check_equal({task: torch.cat([part[task] for part in parts]) for task in parts[0]}, net(whole).predictions)


@some
@given(MODELS, st.permutations(TASKS))
def test_order_of_tasks(name: str, order: list[Task]) -> None:
    net, other, whole = net_of(name), net_of(name, order), batch()
    at = [TASKS.index(task) for task in order]
    state = net.state_dict()
    other.load_state_dict({key: value[at] if key in BY_TASK else value for key, value in state.items()})
    check_equal(other(whole).predictions, net(whole).predictions)


@some
@given(MODELS, st.lists(st.sampled_from([task.name for task in TASKS]), min_size=1, unique=True))
def test_some_tasks_alone(name: str, only: list[str]) -> None:
    net, whole = net_of(name), batch()
    everything = net(whole).predictions
    check_equal(net(whole, only=only).predictions, {task: everything[task] for task in only})


def test_the_comparison_can_fail() -> None:
    """Another beat of one record changes its predictions by more than what is let pass."""
    net, whole = net_of("ecg_moe"), batch()
    before = net(whole).predictions
    whole.r_peaks[0, 3] += 25
    with pytest.raises(AssertionError):
        check_equal(net(whole).predictions, before)
