"""The terms of the loss that are no sum over records: each record's part depends on the whole global batch.

    contrastive  InfoNCE between the paths (paper, Eq. 5), its negatives all other records
    imbalance    how unevenly the experts are used, from their mean gate over all records

In one pass ranks exchange what these terms see of their records, with gradients. Under accumulation no pass has all
records, so the gradients are cached (GradCache: Gao et al., 2021, arXiv 2101.06983): a first run over the micro-batches
without gradients collects what the terms see, the terms are differentiated with respect to that, and in the second run,
with the same dropout, each micro-batch adds its part of the inner product, whose gradient is that of the term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ecgmoe.model.config import LossConfig
from ecgmoe.model.losses import info_nce_sum, load_imbalance
from ecgmoe.model.output import Output
from ecgmoe.training.collectives import gather_rows
from ecgmoe.training.plan import GlobalBatch

Seen = dict[str, tuple[Tensor, ...]]
"""What each term sees of b records: tensors whose first axis is b."""


@dataclass(frozen=True, kw_only=True)
class CachedTerm:
    """One term's part for one micro-batch.

    Attributes:
        share: of the term's value.
        gradients: of the term with respect to what it sees of the micro-batch.
    """

    share: Tensor
    gradients: tuple[Tensor, ...]

    def __call__(self, seen: Sequence[Tensor]) -> Tensor:
        """`share`, with the term's gradient."""
        product = torch.stack([(x * g).sum() for x, g in zip(seen, self.gradients, strict=True)]).sum()
        return self.share + product - product.detach()


class GlobalTerms:
    """The terms that a run's loss has; false where it has none."""

    def __init__(self, loss: LossConfig) -> None:
        self.loss = loss
        self.names = [
            name
            for name, weight in (("contrastive", loss.contrastive_weight), ("imbalance", loss.load_balance_weight))
            if weight
        ]

    def __bool__(self) -> bool:
        return bool(self.names)

    def see(self, output: Output) -> Seen:
        """What the terms see of a pass, in fp32."""
        seen: Seen = {}
        if "contrastive" in self.names and output.contrast is not None:
            seen["contrastive"] = tuple(z.float() for z in output.contrast)
        if "imbalance" in self.names and output.routing.experts is not None:
            seen["imbalance"] = (output.routing.experts.float().mean(1),)
        return seen

    def __call__(
        self, seen: Mapping[str, Sequence[Tensor]], whole: GlobalBatch, patient_B: Tensor
    ) -> dict[str, Tensor]:
        """This rank's share of each term; every rank must call it, with all its records.

        Args:
            seen: of this rank's records.
            whole: the global batch.
            patient_B: patient of each of its records.
        """
        shares: dict[str, Callable[..., Tensor]] = {"contrastive": self._contrastive, "imbalance": self._imbalance}
        return {name: shares[name](*seen[name], whole, patient_B) for name in self.names}

    def cached(self, seen: Sequence[Seen], whole: GlobalBatch, patient_B: Tensor) -> list[dict[str, CachedTerm]]:
        """The terms in parts, one for each micro-batch of this rank; every rank must call it.

        Args:
            seen: of each micro-batch, without gradients.
        """
        sizes = [len(next(iter(each.values()))[0]) for each in seen]
        leaves = {
            name: tuple(torch.cat(parts).requires_grad_() for parts in zip(*(each[name] for each in seen), strict=True))
            for name in self.names
        }
        shares = self(leaves, whole, patient_B)
        # No two terms see the same leaf, so one backward pass gives each its own gradients.
        torch.stack(list(shares.values())).sum().backward()
        gradients = {
            name: list(zip(*(_grad(leaf).split(sizes) for leaf in each), strict=True)) for name, each in leaves.items()
        }
        return [
            {
                name: CachedTerm(share=shares[name].detach() / len(seen), gradients=gradients[name][index])
                for name in self.names
            }
            for index in range(len(seen))
        ]

    def _contrastive(self, z_m: Tensor, z_p: Tensor, whole: GlobalBatch, patient_B: Tensor) -> Tensor:
        first = whole.first(dist.get_rank())
        total = info_nce_sum(
            z_m,
            z_p,
            patient=patient_B[first : first + len(z_m)],
            all_m=gather_rows(z_m, whole.counts),
            all_p=gather_rows(z_p, whole.counts),
            all_patient=patient_B,
            first=first,
            temperature=self.loss.temperature,
        )
        return total / len(whole.rows)

    def _imbalance(self, gate_bE: Tensor, whole: GlobalBatch, patient_B: Tensor) -> Tensor:
        world = dist.get_world_size()
        # Even gates differ in their last digits, which a sum in fp32 would round away.
        total = gather_rows(gate_bE.double().sum(0, keepdim=True), (1,) * world).sum(0)
        return load_imbalance(total / len(whole.rows)).float() / world


def _grad(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
