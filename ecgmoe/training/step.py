"""One optimiser step over a global batch: the same gradient, however the batch is cut over ranks and micro-steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ecgmoe.config import RunConfig
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.losses import composite, expected_cost_sum, task_losses, task_weight
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.global_terms import CachedTerm, GlobalTerms
from ecgmoe.training.loader import BatchReader
from ecgmoe.training.plan import GlobalBatch
from ecgmoe.training.random_state import random_state, set_random_state
from ecgmoe.training.routing import RoutingLoad

Step = Callable[[ECGBatch, GlobalBatch], dict[str, Tensor]]
"""Trains on a rank's share of a global batch, and returns its share of each loss."""


@dataclass(frozen=True, kw_only=True)
class FirstPass:
    """What is known of a micro-batch before its pass with gradients.

    Attributes:
        random: state of the random numbers before its first pass, so that the second has the same dropout.
        terms: its parts of the terms of the global batch.
    """

    random: dict[str, Tensor]
    terms: dict[str, CachedTerm]


class TrainingStep:
    """Makes optimiser steps.

    Args:
        engine: of this rank.
        config: of the run.
        statistics: of the training split.
        reader: knows the labels and patients of every record, also of those that other ranks read.
        load: counts the use of the experts.
        costs: of the backbones that the model chooses among; None where the loss has no term of them.
    """

    def __init__(
        self,
        engine: Any,
        config: RunConfig,
        statistics: TrainingStatistics,
        reader: BatchReader,
        load: RoutingLoad,
        costs: Sequence[float] | None = None,
    ) -> None:
        self.engine, self.config, self.statistics, self.reader, self.load = engine, config, statistics, reader, load
        self.tasks, self.accumulation = config.task_table(), config.training.accumulation
        self.terms = GlobalTerms(config.loss)
        self.costs = None if costs is None else torch.tensor(costs, device=engine.device)

    def __call__(self, batch: ECGBatch, whole: GlobalBatch) -> dict[str, Tensor]:
        """Train on this rank's share `batch` of a global batch.

        Returns:
            This rank's share of each loss; the sum over the ranks is the loss of the global batch.
        """
        micros = batch.to(self.engine.device).cut(self.accumulation)
        totals = self.totals(whole)
        patients = torch.from_numpy(self.reader.patient_id[whole.rows]).to(self.engine.device)
        # A term of the whole batch needs every record before the first backward pass.
        first = self.first_passes(micros, whole, patients) if self.terms and len(micros) > 1 else None
        passes = dist.get_world_size() * len(micros)
        losses: dict[str, Tensor] = {}
        for index, micro in enumerate(micros):
            if first:
                set_random_state(first[index].random)
            with autocast(self.engine, self.config.training):
                output = self.engine(micro)
            self.load.add(output.routing.experts)
            parts = task_losses(output, micro, self.tasks, self.statistics, totals)
            if self.costs is not None and output.routing.preference is not None:
                parts["cost"] = expected_cost_sum(output.routing.preference, self.costs) / len(whole.rows)
            seen = self.terms.see(output)
            if first:
                parts |= {name: term(seen[name]) for name, term in first[index].terms.items()}
            else:
                parts |= self.terms(seen, whole, patients)
            total = composite(parts, self.config.loss, self.tasks, output.log_variance, totals, 1 / passes)
            # The engine averages over ranks and micro-steps; the losses are already shares of the global batch.
            self.engine.backward(total * passes)
            self.engine.step()
            losses = {name: losses.get(name, 0.0) + part.detach() for name, part in parts.items()}
        return losses

    def totals(self, whole: GlobalBatch) -> dict[str, float]:
        """Sum of the record weights of each task over the global batch, known from the labels alone."""
        return {
            task.name: float(
                task_weight(task, torch.from_numpy(self.reader.labels[task.name][whole.rows]), self.statistics).sum()
            )
            for task in self.tasks
        }

    def first_passes(self, micros: Sequence[ECGBatch], whole: GlobalBatch, patients: Tensor) -> list[FirstPass]:
        """Go over the micro-batches once without gradients, for the terms of the global batch."""
        states, seen = [], []
        with torch.no_grad(), autocast(self.engine, self.config.training):
            for micro in micros:
                states.append(random_state())
                seen.append(self.terms.see(self.engine(micro)))
        terms = self.terms.cached(seen, whole, patients)
        return [FirstPass(random=state, terms=each) for state, each in zip(states, terms, strict=True)]


def autocast(engine: Any, config: TrainingConfig) -> contextlib.AbstractContextManager[Any]:
    """bf16 where the run asks for it; parameters and optimiser stay in fp32."""
    if config.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(engine.device.type, dtype=torch.bfloat16)
