"""How much each task uses each expert over an interval of training, and which experts nobody uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ecgmoe.evaluation.routing import entropy
from ecgmoe.training.collectives import sum_over_ranks

DEAD_SHARE = 0.01
"""An expert that gets less from every task has nothing to do with what is predicted."""


class RoutingLoad:
    """Sums the gates g_p of Eq. 3 over records.

    Args:
        tasks: names, in the order of the axis P.
        experts: names, in the order of the axis E; empty where the model has none.
    """

    def __init__(self, tasks: Sequence[str], experts: Sequence[str], device: torch.device) -> None:
        self.tasks, self.experts = tuple(tasks), tuple(experts)
        self.total = torch.zeros(len(self.tasks), len(self.experts), device=device)

    def add(self, g_BPE: Tensor | None) -> None:
        """Count the records of one pass. Where the tasks share their gate, P is 1."""
        if g_BPE is not None:
            self.total += g_BPE.detach().float().sum(0)

    def take(self) -> Tensor:
        """Mean gate over the records of all ranks since the last call, (P, E); every rank must call it."""
        if not self.experts:
            return self.total
        total = sum_over_ranks(self.total.clone())
        self.total.zero_()
        return total / total.sum(1, keepdim=True).clamp(min=1e-12)

    def metrics(self, load: Tensor) -> dict[str, float]:
        """What MLflow keeps: each task's share of each expert, the entropy of its load (1 = even), and dead experts."""
        if not self.experts:
            return {}
        values = {
            f"routing/{task}/{expert}": float(load[p, e])
            for p, task in enumerate(self.tasks)
            for e, expert in enumerate(self.experts)
        }
        for p, task in enumerate(self.tasks):
            values[f"routing/{task}/entropy"] = entropy(load[p].cpu().numpy())
        return values | {"routing/dead_experts": float(len(self.dead(load)))}

    def dead(self, load: Tensor) -> list[str]:
        """Experts that no task gives `DEAD_SHARE` of its weight."""
        return [expert for e, expert in enumerate(self.experts) if float(load[:, e].max()) < DEAD_SHARE]
