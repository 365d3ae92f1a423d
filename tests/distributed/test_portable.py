"""The portable part of a checkpoint is the same file, byte for byte, whatever layout it passes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from distributed import run_distributed
from ecgmoe.training.portable import FILE
from ecgmoe.training.safetensors_stream import Entry, write_stream
from portable_examples import STEPS, Awkward, carry_portable, write_portable

pytestmark = pytest.mark.distributed

SOURCES = ((0, "adamw"), (1, "adamw"), (2, "sgd"), (3, "adamw"), (3, "plain"))
TARGETS = [(f"{stage}-{optimizer}", target, optimizer) for stage, optimizer in SOURCES for target in range(4)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("portable")


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, list[float]]:
    """Losses after the checkpoint, where nothing was interrupted, written by two ranks."""
    losses = run_distributed(write_portable, 2, list(SOURCES), str(root))[0]
    return {f"{stage}-{optimizer}": each for (stage, optimizer), each in zip(SOURCES, losses, strict=True)}


def test_any_layout_reads_and_writes_the_same_file(root: Path, expected: dict[str, list[float]]) -> None:
    # Three ranks divide none of the sizes, and some of them get no element of a small parameter.
    for rank in run_distributed(carry_portable, 3, TARGETS, str(root)):
        for case, found in zip(TARGETS, rank, strict=True):
            assert found["same"], case
            # All ranks see the same records, so that their mean is one rank's value but for the division by three.
            assert found["losses"] == pytest.approx(expected[case[0]], rel=1e-6), case


def test_the_file_holds_everything_by_name(root: Path, expected: dict[str, list[float]]) -> None:
    kept: dict[str, Any] = {
        "0-adamw": {"exp_avg", "exp_avg_sq", "step"},
        "3-adamw": {"exp_avg", "exp_avg_sq", "step"},
        "2-sgd": {"momentum_buffer"},
        "3-plain": set(),
    }
    trained = {name: value for name, value in Awkward().named_parameters() if value.requires_grad}
    for source, keys in kept.items():
        found = load_file(root / source / FILE)
        assert set(found) == {"buffer/seen"} | {f"{key}/{name}" for name in trained for key in {"parameter", *keys}}
        assert found["buffer/seen"] == STEPS
        for name, value in trained.items():
            assert found[f"parameter/{name}"].shape == value.shape
            assert torch.equal(found[f"parameter/{name}"], value) == (
                source in {"2-sgd", "3-plain"} and name == "unused"
            )
            if "step" in keys:
                assert found[f"step/{name}"] == STEPS
    with safe_open(root / "0-adamw" / FILE, "pt") as file:
        assert '"last_epoch": 3' in file.metadata()["schedule"]


def test_a_stream_is_a_safetensors_file_and_refuses_another_tensor(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(7),
        "c": torch.zeros(0, 2),
        "d": torch.tensor([True]),
    }
    entries = [Entry(name=name, dtype=value.dtype, shape=tuple(value.shape)) for name, value in tensors.items()]
    # A transposed tensor lies in memory in another order than it is written.
    transposed = {**tensors, "a": torch.arange(6.0).reshape(2, 3).T.contiguous().T}
    write_stream(tmp_path / "x", entries, iter(transposed.values()), {"key": "value"})
    found = load_file(tmp_path / "x")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    with pytest.raises(ValueError, match=r"'a'.* got a tensor of torch.float32 and shape \(3, 2\)"):
        write_stream(tmp_path / "y", entries[:1], [torch.zeros(3, 2)], {})
    with pytest.raises(ValueError, match="shorter"):
        write_stream(tmp_path / "y", entries, [tensors["a"]], {})
