"""A small net of awkward sizes under DeepSpeed, to carry its portable checkpoint from one layout to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

STEPS = 3


class Awkward(nn.Module):
    """Parameters that no number of ranks divides, one element, one without gradient, one frozen, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.matrix = nn.Parameter(torch.randn(3, 5, generator=generator))
        self.vector = nn.Parameter(torch.randn(7, generator=generator))
        self.single = nn.Parameter(torch.randn(1, generator=generator))
        self.unused = nn.Parameter(torch.randn(2, 2, generator=generator))
        self.frozen = nn.Parameter(torch.randn(5, generator=generator), requires_grad=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x_B5: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return ((x_B5 * self.frozen) @ self.matrix.T).sum() * self.single.sum() + self.vector.square().sum()


def engine_of(stage: int, optimizer: str) -> deepspeed.DeepSpeedEngine:
    net = Awkward()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [{"params": [p for p in trained if (p.ndim > 1) == matrices]} for matrices in (True, False)]
    kinds = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=1e-2),
        "sgd": lambda: torch.optim.SGD(groups, lr=1e-2, momentum=0.9),
        "plain": lambda: torch.optim.SGD(groups, lr=1e-2),
    }
    base = kinds[optimizer]()
    schedule = torch.optim.lr_scheduler.OneCycleLR(base, max_lr=1e-2, total_steps=20, cycle_momentum=False)
    zero = {"stage": stage, "overlap_comm": False, "stage3_param_persistence_threshold": 4}
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
    }
    engine, *_ = deepspeed.initialize(
        model=net, optimizer=base, lr_scheduler=schedule, config=config, dist_init_required=False
    )
    return engine


def steps(engine: deepspeed.DeepSpeedEngine, first: int, count: int) -> list[float]:
    """Losses of these steps, alike on every rank."""
    losses = []
    for step in range(first, first + count):
        loss = engine(torch.randn(2, 5, generator=torch.Generator().manual_seed(step)))
        engine.backward(loss)
        engine.step()
        losses.append(float(loss))
    return losses


def write_portable(cases: list[tuple[int, str]], root: str) -> list[list[float]]:
    """Train at each (stage, optimiser), write root/<stage>-<optimiser>; returns the losses of the next steps."""
    from ecgmoe.training import portable
    from ecgmoe.training.engine import destroy

    found = []
    for stage, optimizer in cases:
        engine = engine_of(stage, optimizer)
        steps(engine, 0, STEPS)
        folder = Path(root) / f"{stage}-{optimizer}"
        folder.mkdir(parents=True, exist_ok=True)
        portable.save(engine, folder)
        found.append(steps(engine, STEPS, STEPS))
        destroy(engine)
    return found


def carry_portable(cases: list[tuple[str, int, str]], root: str) -> list[dict[str, Any]]:
    """Load root/<source> at each (source, stage, optimiser), write it again at once, and train on.

    Returns:
        By case: losses of the next steps, and whether the file is the same one byte for byte.
    """
    from ecgmoe.training import portable
    from ecgmoe.training.engine import destroy

    found: list[dict[str, Any]] = []
    for source, stage, optimizer in cases:
        engine = engine_of(stage, optimizer)
        portable.load(engine, Path(root) / source)
        again = Path(root) / f"{source}-at-{dist.get_world_size()}-{stage}"
        again.mkdir(exist_ok=True)
        portable.save(engine, again)
        dist.barrier()
        same = (again / portable.FILE).read_bytes() == (Path(root) / source / portable.FILE).read_bytes()
        found.append({"same": same, "losses": steps(engine, STEPS, STEPS), "rate": engine.get_lr()})
        destroy(engine)
    return found
