"""The figures of a table: each variant's mean and spread over seeds, its interval over patients, and what it costs."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from safetensors import safe_open

from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.known import predicted_values
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.filesystem import StorageError, temporary_folder
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.tasks import Task
from ecgmoe.training import tracking
from ecgmoe.tuning.cells import Cell, Plan, pooled
from ecgmoe.tuning.tables import Table

RATE, MEMORY = "train/records_per_s", "train/memory_gb"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a variant takes, medians over its trainings.

    Attributes:
        parameters: numbers in the file of the model, cached backbones and buffers among them.
        records_per_s: of training, all workers of a cell together, beside the cells that trained at the same time; None where
            nothing was trained or MLflow does not have it any more.
        memory_gb: the most that a worker had held, median over the logged steps; None likewise.
    """

    parameters: int
    records_per_s: float | None
    memory_gb: float | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one variant.

    Attributes:
        seeds: metrics of each seed, over all of its folds.
        pooled: metrics of all seeds together with 95 % intervals over patients; the constant's are in it.
        cost: of the variant.
        finished: cells that stand behind the figures.
        wanted: cells that there should be; where some are missing, the figures are of other records.
    """

    seeds: tuple[dict[str, Any], ...]
    pooled: dict[str, Any]
    cost: Cost
    finished: int
    wanted: int

    @property
    def whole(self) -> bool:
        """Whether every cell is finished."""
        return self.finished == self.wanted

    def mean(self, task: str, metric: str) -> float | None:
        """Over seeds; None where the metric is not defined for one of them."""
        values = self._values(task, metric)
        return statistics.fmean(values) if values else None

    def spread(self, task: str, metric: str) -> float | None:
        """Standard deviation over seeds; None for a single seed."""
        values = self._values(task, metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def _values(self, task: str, metric: str) -> list[float]:
        found = [each["tasks"].get(task, {}).get(metric) for each in self.seeds]
        return [] if any(value is None for value in found) else found


def figures_of(plan: Plan, cells: Sequence[Cell], tasks: Sequence[Task], data: PreparedData, *, wanted: int) -> Figures:
    """Figures of one variant from its finished cells.

    Args:
        plan: of the table.
        cells: of one variant, each finished.
        tasks: of the configuration.
        data: prepared folder that the folds were cut from, or the data itself.
        wanted: cells that the variant should have.
    """
    table = pooled(plan, cells)
    constants = constants_of(table, tasks, data)
    seeds = sorted({cell.seed for cell in cells})
    each = [pooled(plan, [cell for cell in cells if cell.seed == seed]) for seed in seeds]
    return Figures(
        seeds=tuple(evaluate(one, constants, tasks, intervals=False) for one in each),
        pooled=evaluate(table, constants, tasks),
        cost=_cost(plan, cells),
        finished=len(cells),
        wanted=wanted,
    )


def compared(
    plan: Plan, table: Table, whole: Collection[Cell], tasks: Sequence[Task], data: PreparedData
) -> dict[str, Any]:
    """Metrics of the table's reference with each other variant beside it, paired over patients.

    Each is compared on the seeds and folds that both have; variants without any of them are left out.

    Args:
        plan: of the table.
        table: whose variants are compared.
        whole: the finished cells.
        tasks: of the configuration.
        data: as for `figures_of`.

    Returns:
        As `evaluate`; no task where the reference has nothing in common with the others.
    """
    of = {name: {(c.seed, c.fold): c for c in whole if c.variant == name} for name in table.variants}
    own = of.pop(table.reference)
    groups: dict[frozenset[Any], list[str]] = {}
    for name, cells in of.items():
        if common := frozenset(set(cells) & set(own)):
            groups.setdefault(common, []).append(name)
    found: dict[str, Any] = {"tasks": {}}
    for common, names in sorted(groups.items(), key=lambda group: -len(group[0])):
        first = pooled(plan, [own[key] for key in own if key in common])
        beside = {}
        for name in names:
            each = pooled(plan, [cell for key, cell in of[name].items() if key in common])
            beside[name] = {task.name: predicted_values(task, each) for task in tasks}
        metrics = evaluate(first, constants_of(first, tasks, data), tasks, beside=beside)
        for task, values in metrics["tasks"].items():
            found["tasks"].setdefault(task, values).setdefault("beside", {}).update(values["beside"])
    return found


def constants_of(table: pa.Table, tasks: Sequence[Task], data: PreparedData) -> Constants:
    """Of the patients that are predicted themselves: a little better than a constant can be."""
    labels = data.labels()
    return Constants.fit(labels.filter(pc.is_in(labels["study_id"], pc.unique(table["study_id"]))), tasks)


def _cost(plan: Plan, cells: Sequence[Cell]) -> Cost:
    medians: dict[str, list[float]] = {RATE: [], MEMORY: []}
    for cell in cells:
        known = (plan.store / cell.run).read_json("mlflow.json")
        # A store that is gone or away costs these two rows, not the table.
        with contextlib.suppress(StorageError):
            for name, value in tracking.medians(known["tracking_uri"], known["run_id"], [RATE, MEMORY]).items():
                medians[name] += [] if value is None else [value]
    rate, memory = (statistics.median(values) if values else None for values in medians.values())
    return Cost(parameters=parameters(plan.store / cells[0].run), records_per_s=rate, memory_gb=memory)


def parameters(run: Store) -> int:
    """Numbers in the model file of a finished run."""
    with temporary_folder() as folder:
        file = folder / "model.safetensors"
        (run / "model").download("model.safetensors", file)
        with safe_open(file, framework="np") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
