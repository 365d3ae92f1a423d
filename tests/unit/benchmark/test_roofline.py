"""What is counted for the roofline is what is there; the measurement itself runs on a CPU, to try the code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ecgmoe.benchmark.page import rows_of
from ecgmoe.benchmark.roofline import Product, count_bytes, count_products, device_of, roofline_benchmark
from jobs import job


def test_products_and_bytes_by_hand() -> None:
    linear, x = nn.Linear(8, 16), torch.randn(4, 8)
    flops, products = count_products(lambda: linear(x))
    assert (flops, products) == (2 * 4 * 8 * 16, [Product(count=1, m=4, k=8, n=16)])
    # Weights, bias and input are read, the output is written; the transposed weights are a view.
    assert count_bytes(lambda: linear(x)) == 4 * (16 * 8 + 16 + 4 * 8 + 4 * 16)


def test_a_convolution_is_a_product_of_its_patches() -> None:
    convolution = nn.Conv1d(4, 6, 3, groups=2, bias=False)
    flops, products = count_products(lambda: convolution(torch.randn(5, 4, 12)))
    assert products == [Product(count=2, m=5 * 10, k=2 * 3, n=3)]
    assert flops == products[0].flops


def test_attention_is_counted_as_its_two_products() -> None:
    query, key = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 5, 4)
    flops, _ = count_products(lambda: nn.functional.scaled_dot_product_attention(query, key, key))
    assert flops == 2 * (2 * 6 * 7 * 4 * 5)


@pytest.mark.parametrize("name", ["dlinear"])
def test_on_a_cpu(name: str) -> None:
    found: dict[str, Any] = roofline_benchmark(device="cpu", names=(name,), pairs=6, batch=2)
    assert (found["device"], found["size"], found["precision"]) == ("cpu", "tiny", "fp32")
    each = found["backbones"][name]
    assert each["flops_per_byte"] == pytest.approx(each["flops_per_record"] / each["bytes_per_record"])
    for way in ("embed", "training"):
        assert each[way]["records_per_second"] > 0
        assert each[way]["peak_bytes"] is None
        assert each[way]["hours"] * 3600 == pytest.approx(each[way]["seconds"])
    # A step does the forward pass and about as much again for what trains, and the rest of the model.
    assert each["training"]["flops_per_record"] > each["embed"]["flops_per_record"]
    assert f"| {name} | embed |" in found["markdown"]
    rows = rows_of({"stage": "roofline", **found})
    assert len(rows) == 4
    assert all(row.aim is None for row in rows)
    large = rows_of({"stage": "roofline", **found, "device": "cuda", "size": "large"})
    assert [row.aim for row in large] == [25.0, 0.4, 25.0, 0.4]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="try the code with --device cpu"):
        device_of(None)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="a CPU is measured at size tiny"):
        roofline_benchmark(device="cpu", size="large")
    assert "--encoders and --device are of roofline, not of costs" in job(
        "benchmark", "--stage", "costs", "--device", "cpu", expect=2
    )
