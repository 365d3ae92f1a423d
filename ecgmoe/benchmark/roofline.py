"""Each backbone beside what its device can do: FLOPs, bytes, the measured peaks, and the share of them that is reached.

A pass can be no faster than its FLOPs at the rate of matrix products, and no faster than its bytes at the rate of memory
(Williams et al., Commun. ACM 2009). Both peaks are measured in the same run: matrix products of the shapes that the backbone
itself asks for, and a copy that is much larger than any cache.

    MFU  model FLOPs per second over that rate of matrix products: FLOPs of the products and convolutions alone

What is measured is the inner loop of embed (int16 in host memory to features in host memory) and a step of training (forward,
backward, AdamW) with the backbone in the graph, at random weights, in bf16 on a GPU and in fp32 on a CPU.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ecgmoe.backbones.config import BackboneConfig, Size
from ecgmoe.backbones.registry import BACKBONES, backbone_class
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.benchmark.costs import loss_of, training_model
from ecgmoe.benchmark.paired import interleaved, ratio
from ecgmoe.benchmark.variants import noise
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import require
from ecgmoe.flops import count_flops
from ecgmoe.model.config import ModelConfig
from ecgmoe.pipeline.embed_shard import EncodeShard
from ecgmoe.training.alone import group_of_one
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.optimizer import make_optimizer

DeviceName = Literal["cuda", "cpu"]

RECORDS = 800_035
"""Of MIMIC-IV-ECG."""
PAPER_RECORDS_PER_SECOND, PAPER_BYTES = 14.7, 8.2e9
"""What the paper gives for its model."""
COPIED = {"cuda": 2**30, "cpu": 2**26}
"""Bytes of the copy by which memory is measured."""
BATCH = {"cuda": 64, "cpu": 4}
SHAPES = 3
"""Matrix products measured for the peak: those with most of the FLOPs."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """A matrix product (count, m, k) x (count, k, n)."""

    count: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.count * self.m * self.k * self.n


def device_of(asked: str | None) -> DeviceName:
    """The device to measure: a GPU, or the CPU where that is asked for.

    Raises:
        ValueError: there is no GPU.
    """
    if asked == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError(
            "a roofline is of a GPU, and torch sees none here: run it on a machine with one, or try the code with --device cpu"
        )
    return "cuda"


def roofline_benchmark(
    *,
    size: Size | None = None,
    device: str | None = None,
    names: Sequence[str] = tuple(BACKBONES),
    pairs: int = 10,
    batch: int | None = None,
) -> dict[str, Any]:
    """Measure each backbone in interleaved rounds with the matrix products that it asks for.

    Args:
        size: of the encoders; "large" on a GPU, and only "tiny" on a CPU.
        device: "cpu", or None for the GPU.
        names: of the backbones.
        pairs: rounds that count, at least 6.
        batch: records at once; 64 on a GPU, 4 on a CPU.

    Returns:
        By backbone: FLOPs and bytes of a forward pass per record and their ratio (FLOPs per byte), the rate of matrix
        products, and of embed's loop and of a training step records per second, MFU (`Ratio`), peak bytes of GPU memory
        (None on a CPU), and the seconds and GPU hours that RECORDS would take, extrapolated; and `markdown`, a table.

    Raises:
        ValueError: there is no GPU, or the size is not for a CPU.
    """
    where = device_of(device)
    size = size or ("large" if where == "cuda" else "tiny")
    require(where == "cuda" or size == "tiny", f"a CPU is measured at size tiny, to try the code, and not at {size}")
    if where == "cpu":
        torch.set_num_threads(1)
    group_of_one()
    records = batch or BATCH[where]
    result = {
        "device": where,
        "device_name": torch.cuda.get_device_name() if where == "cuda" else "cpu",
        "size": size,
        "precision": _precision(where),
        "batch": records,
        "pairs": pairs,
        "bytes_per_second": _memory_rate(where),
        "backbones": {name: _backbone(name, size, where, records, pairs) for name in names},
    }
    return {**result, "markdown": markdown(result)}


def markdown(result: Mapping[str, Any]) -> str:
    """A row for each backbone and way."""
    lines = [
        f"{result['device_name']}, size {result['size']}, {result['precision']}, {result['batch']} records at once; a copy "
        f"moves {result['bytes_per_second'] / 1e9:,.0f} GB/s.",
        "",
        "| backbone | way | GFLOP per record | FLOP per byte | products, TFLOP/s | records/s | MFU | peak GB | hours of "
        f"{RECORDS:,} |",
        "|---" * 9 + "|",
    ]
    for name, found in result["backbones"].items():
        for way in ("embed", "training"):
            each = found[way]
            mfu, peak = each["mfu"], each["peak_bytes"]
            cells = [
                name,
                f"{way}, {found['training_mode']}" if way == "training" else way,
                f"{each['flops_per_record'] / 1e9:.3g}",
                f"{found['flops_per_byte']:.3g}",
                f"{found['product_flops_per_second'] / 1e12:.3g}",
                f"{each['records_per_second']:,.1f}",
                f"{mfu['median']:.2f} ({mfu['low']:.2f} to {mfu['high']:.2f})",
                "not on a CPU" if peak is None else f"{peak / 1e9:.1f}",
                f"{each['hours']:.2g}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _backbone(name: str, size: Size, device: DeviceName, records: int, pairs: int) -> dict[str, Any]:
    # One after the other, so that neither way has the other's memory.
    of_embed, embed = _embed(name, size, device, records, pairs)
    mode, step = _training(name, size, device, records)
    flops, products = count_products(step)
    training = _way(step, partial(product_rate, products, device), flops / records, records, device, pairs)
    return {**of_embed, "training_mode": mode, "embed": embed, "training": training}


def _embed(
    name: str, size: Size, device: DeviceName, records: int, pairs: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the encoder asks for, and embed's loop."""
    config = BackboneConfig(name=name, size=size, mode="cached", allow_random=True)
    shard = EncodeShard(".", [(name, config)], records, _precision(device), float(device == "cuda"))
    batch = noise(records)
    signal, backbone = to_millivolt(batch.signal.to(device)), shard.backbones[name]

    def forward() -> None:
        with _autocast(device):
            backbone(signal)

    (flops, products), moved = count_products(forward), count_bytes(forward)
    rate, numbers = partial(product_rate, products, device), batch.signal.numpy()
    asked = {
        "flops_per_record": flops / records,
        "bytes_per_record": moved / records,
        "flops_per_byte": flops / moved,
        "products": [asdict(each) for each in products],
        "product_flops_per_second": rate(),
    }
    return asked, _way(lambda: shard.encode(numbers, [name]), rate, flops / records, records, device, pairs)


def _training(name: str, size: Size, device: DeviceName, records: int) -> tuple[str, Callable[[], object]]:
    """A step of ECG-MoE with this backbone alone: adapters on its attention train, or all of it where it has none."""
    mode: Literal["lora", "full"] = "lora" if backbone_class(name).attention else "full"
    config = RunConfig(
        backbones=(BackboneConfig(name=name, size=size, mode=mode, allow_random=True),),
        model=ModelConfig(width=128, attention_heads=8) if device == "cuda" else ModelConfig(width=16),
        training=TrainingConfig(),
    )
    model, batch = training_model(config, noise(records))
    model, batch = model.to(device), batch.to(torch.device(device))
    optimizer = make_optimizer(model.parameters(), config.training)

    def step() -> None:
        with _autocast(device):
            loss = loss_of(model, config, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return mode, step


def _way(
    work: Callable[[], object],
    rate: Callable[[], float],
    flops_per_record: float,
    records: int,
    device: DeviceName,
    pairs: int,
) -> dict[str, Any]:
    """Alternate the work with the matrix products."""
    # Before the products take memory of their own.
    work()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    speeds, rates = interleaved([lambda: records / _seconds(work, device), rate], pairs)
    speed = statistics.median(speeds)
    return {
        "flops_per_record": flops_per_record,
        "records_per_second": speed,
        "times_paper": asdict(ratio(speeds, [PAPER_RECORDS_PER_SECOND] * pairs)),
        "mfu": asdict(ratio([flops_per_record * each for each in speeds], rates)),
        "peak_bytes": peak,
        "seconds": RECORDS / speed,
        "hours": RECORDS / speed / 3600,
    }


def count_products(run: Callable[[], object]) -> tuple[int, list[Product]]:
    """FLOPs of all products and convolutions that `run` makes, and those products with most of them."""
    with _Products() as seen:
        flops = count_flops(run)
    by_flops = Counter({product: product.flops * times for product, times in seen.products.items()})
    return flops, [product for product, _ in by_flops.most_common(SHAPES)]


def count_bytes(run: Callable[[], object]) -> int:
    """Bytes that `run` reads and writes when every operation reads its inputs and writes its outputs: no fusion, no cache."""
    with torch.no_grad(), _Bytes() as seen:
        run()
    return seen.total


class _Bytes(TorchDispatchMode):
    """Adds up inputs and outputs of operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]
            self.total += sum(each.numel() * each.element_size() for each in tensors)
        return result


class _Products(TorchDispatchMode):
    """Counts matrix products by shape; a convolution is the product of its patches with its kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        product = _product(func.overloadpacket, args, result)
        if product is not None:
            self.products[product] += 1
        return result


def _product(operation: Any, arguments: Sequence[Any], result: Any) -> Product | None:
    aten = torch.ops.aten
    if operation in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm):
        left, right = arguments[-2:] if operation in (aten.mm, aten.bmm) else arguments[1:3]
        return Product(count=math.prod(left.shape[:-2]), m=left.shape[-2], k=left.shape[-1], n=right.shape[-1])
    if operation is aten.convolution and not arguments[6]:
        weight, groups = arguments[1], arguments[8]
        return Product(
            count=groups,
            m=result.shape[0] * math.prod(result.shape[2:]),
            k=math.prod(weight.shape[1:]),
            n=weight.shape[0] // groups,
        )
    return None


def product_rate(products: Sequence[Product], device: DeviceName) -> float:
    """FLOPs per second of these matrix products, in the type in which the model makes them."""
    kind, seconds = torch.bfloat16 if device == "cuda" else torch.float32, 0.0
    for each in products:
        left = torch.randn(each.count, each.m, each.k, device=device, dtype=kind)
        right = torch.randn(each.count, each.k, each.n, device=device, dtype=kind)
        multiply = partial(torch.matmul, *((left[0], right[0]) if each.count == 1 else (left, right)))
        multiply()
        seconds += min(_seconds(multiply, device) for _ in range(3))
    return sum(each.flops for each in products) / seconds


def _memory_rate(device: DeviceName) -> float:
    """Bytes per second that a copy reads and writes, the best of ten."""
    source = torch.zeros(COPIED[device], dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    seconds = min(_seconds(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * COPIED[device] / seconds


def _seconds(run: Callable[[], object], device: DeviceName) -> float:
    """Of one call, until the device is through with it."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _precision(device: DeviceName) -> Literal["bf16", "fp32"]:
    return "bf16" if device == "cuda" else "fp32"


def _autocast(device: DeviceName) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
