"""What the cluster can never hold is refused, with what is missing and how many workers would fit."""

from __future__ import annotations

import re

import pytest
import ray

from ecgmoe.pipeline.layout import Operator, fits, refuse_impossible

TASK = Operator(cpus=1, gpus=0)
READ = Operator(cpus=0.25, gpus=0)


def actors(number: int, *, cpus: float = 1, gpus: float = 0) -> Operator:
    return Operator(cpus=cpus, gpus=gpus, actors=number)


@pytest.mark.parametrize(
    ("operators", "nodes"),
    [
        ([TASK], [{"CPU": 1}]),
        ([actors(2)], [{"CPU": 1}, {"CPU": 1}]),
        ([READ, actors(1, gpus=1), READ], [{"CPU": 2, "GPU": 1}]),
        ([actors(4, cpus=0, gpus=0.5)], [{"CPU": 1, "GPU": 2}]),
        ([READ] * 4 + [TASK], [{"CPU": 2}]),
        ([actors(10, cpus=0.1)], [{"CPU": 1}]),
        ([actors(1, cpus=0, gpus=2), actors(2, cpus=0, gpus=0.5)], [{"GPU": 3}]),
    ],
)
def test_what_fits(operators: list[Operator], nodes: list[dict[str, float]]) -> None:
    assert fits(operators, nodes)
    refuse_impossible("embed", operators, nodes)


@pytest.mark.parametrize(
    ("operators", "nodes", "message"),
    [
        ([TASK], [{}], "embed needs a task of 1 CPU, and this cluster has 0 CPUs: it would never start"),
        ([actors(2)], [{"CPU": 0.5}], "embed needs 1 actor of 1 CPU, and this cluster has 0.5 CPUs"),
        (
            [actors(1, cpus=2)],
            [{"CPU": 1}, {"CPU": 1}],
            "embed needs 1 actor of 2 CPUs on one node, and this cluster has 2 CPUs on 2 nodes",
        ),
        ([actors(1, gpus=1)], [{"CPU": 4}], "1 actor of 1 CPU and 1 GPU, and this cluster has 4 CPUs and 0 GPUs"),
        (
            [READ, actors(2, gpus=1), READ],
            [{"CPU": 2, "GPU": 2}],
            "a task of 0.25 CPUs, 2 actors of 1 CPU and 1 GPU, a task of 0.25 CPUs at the same time, and this cluster has "
            "2 CPUs and 2 GPUs: some of them would never start; set workers to at most 1, or start Ray with more",
        ),
        # Three shares of 0.4 need two GPUs, not 1.2.
        ([actors(3, cpus=0, gpus=0.4)], [{"CPU": 4, "GPU": 1}], "at the same time, .* set workers to at most 2, or"),
        (
            [actors(1), TASK],
            [{"CPU": 1}],
            "1 actor of 1 CPU, a task of 1 CPU at the same time, .* never start; start Ray",
        ),
    ],
)
def test_what_does_not(operators: list[Operator], nodes: list[dict[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message if ".*" in message else re.escape(message)):
        refuse_impossible("embed", operators, nodes)


def test_operators_are_read_from_the_arguments_of_ray_data() -> None:
    assert Operator.of({"num_cpus": 0.25, "compute": ray.data.TaskPoolStrategy(size=3)}) == READ
    # Ray Data takes a CPU where none is named, with a GPU too.
    pool = {"num_gpus": 0.5, "compute": ray.data.ActorPoolStrategy(size=3)}
    assert Operator.of(pool) == actors(3, gpus=0.5)
