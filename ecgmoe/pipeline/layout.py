"""Whether a stage's operators fit into the cluster: what does not would wait for ever, and Ray would not say so."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

PATIENCE_S = 5.0
"""The actors of a stage that has ended give their CPUs back within this time."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """What one operator of a stage holds.

    Attributes:
        cpus: of each of its actors or tasks.
        gpus: of each; an actor's share of one GPU cannot lie on two.
        actors: number of them, all there from start to end; 0 for tasks, of which one at a time is enough.
    """

    cpus: float
    gpus: float
    actors: int = 0

    @classmethod
    def of(cls, resources: Mapping[str, Any]) -> Operator:
        """From the arguments of `Dataset.map_batches`; without `num_cpus` Ray Data takes one, with a GPU too."""
        compute: Any = resources.get("compute")
        return cls(
            cpus=float(resources.get("num_cpus", 1)),
            gpus=float(resources.get("num_gpus", 0)),
            actors=compute.min_size if isinstance(compute, ray.data.ActorPoolStrategy) else 0,
        )

    def __str__(self) -> str:
        each = (
            amount(self.cpus, "CPU") if not self.gpus else f"{amount(self.cpus, 'CPU')} and {amount(self.gpus, 'GPU')}"
        )
        return f"{self.actors} actor{'' if self.actors == 1 else 's'} of {each}" if self.actors else f"a task of {each}"


def amount(number: float, kind: str) -> str:
    """A number of CPUs or GPUs in words."""
    return f"{number:g} {kind}{'' if number == 1 else 's'}"


def refuse_impossible(stage: str, operators: Sequence[Operator], nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse what no cluster of these nodes can hold: all actors and, beside them, a task of every other operator.

    Args:
        stage: for the message.
        operators: of the stage.
        nodes: resources of each node, as Ray counts them (CPU, GPU).

    Raises:
        ValueError: what is needed, what is there, and what to change.
    """
    cpus = sum(node.get("CPU", 0) for node in nodes)
    gpus = sum(node.get("GPU", 0) for node in nodes)
    there = amount(cpus, "CPU") + (
        f" and {amount(gpus, 'GPU')}" if gpus or any(each.gpus for each in operators) else ""
    )
    for each in operators:
        if not fits([replace(each, actors=min(each.actors, 1))], nodes):
            on_one, among = ("", "") if len(nodes) == 1 else (" on one node", f" on {len(nodes)} nodes")
            raise ValueError(
                f"{stage} needs {replace(each, actors=min(each.actors, 1))}{on_one}, and this cluster has {there}{among}: "
                "it would never start; start Ray with what is missing (ray start --num-cpus N --num-gpus N), or add a "
                "node that has it"
            )
    if fits(operators, nodes):
        return
    largest = max(each.actors for each in operators)
    most = next((number for number in range(largest - 1, 0, -1) if _fits_with(operators, number, nodes)), 0)
    fewer = f"set workers to at most {most}, or " if most else ""
    raise ValueError(
        f"{stage} needs {', '.join(map(str, operators))} at the same time, and this cluster has {there}: some of them would "
        f"never start; {fewer}start Ray with more (ray start --num-cpus N --num-gpus N), or add a node"
    )


def _fits_with(operators: Sequence[Operator], actors: int, nodes: Sequence[Mapping[str, float]]) -> bool:
    return fits([replace(each, actors=min(each.actors, actors)) for each in operators], nodes)


def fits(operators: Sequence[Operator], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether all actors, and one task of each operator without, have room on these nodes together (largest first)."""
    cpus = [node.get("CPU", 0.0) for node in nodes]
    gpus = [[1.0] * int(node.get("GPU", 0)) for node in nodes]
    wanted = [(each.gpus, each.cpus) for each in operators for _ in range(each.actors or 1)]
    return all(_take(need, have, cpus, gpus) for have, need in sorted(wanted, reverse=True))


def _take(need_cpus: float, need_gpus: float, cpus: list[float], gpus: list[list[float]]) -> bool:
    """Take so much from the first node that has it. Sums of shares such as 0.1 are rounded, as Ray rounds them."""
    tiny = 1e-4
    for node in range(len(cpus)):
        if cpus[node] + tiny < need_cpus:
            continue
        whole = int(need_gpus)
        share = need_gpus - whole
        free = [number for number, left in enumerate(gpus[node]) if left > 1 - tiny]
        if whole > len(free):
            continue
        taken = dict.fromkeys(free[:whole], 1.0)
        if share > tiny:
            rest = [n for n, left in enumerate(gpus[node]) if n not in taken and left + tiny >= share]
            if not rest:
                continue
            taken[rest[0]] = share
        for number, part in taken.items():
            gpus[node][number] -= part
        cpus[node] -= need_cpus
        return True
    return False


def say_who_waits(stage: str, operators: Sequence[Operator]) -> None:
    """Where other jobs hold what the stage needs to begin, say so once; it begins when they end."""
    need = {"CPU": sum(each.cpus for each in operators), "GPU": sum(each.gpus for each in operators)}
    end = time.monotonic() + PATIENCE_S
    while True:
        free, there = ray.available_resources(), ray.cluster_resources()
        short = [kind for kind, number in need.items() if number > free.get(kind, 0) + 1e-4]
        if not short:
            return
        # What a stage that failed in this process held goes back to the cluster with the last reference to its dataset.
        gc.collect()
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    used = " and ".join(
        f"{there.get(kind, 0) - free.get(kind, 0):g} of {amount(there.get(kind, 0), kind)}" for kind in short
    )
    print(f"{stage}: waiting: {used} are used by other jobs; it goes on when they are free", flush=True)
