"""The sums of an interval of logging survive a change of the number of workers, and a rank's random numbers begin anew."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from ecgmoe.training import checkpoint
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.progress import Interval, Progress
from ecgmoe.training.routing import RoutingLoad


def interval(rank: int) -> Interval:
    losses = {"rr": torch.tensor(1.0 + rank), "age": torch.tensor(10.0 * rank)}
    load = torch.full((2, 3), 1.0 + rank)
    return Interval(losses=losses, load=load, steps=4, seconds=2.0, waited=0.5, dead=["rhythm_1_2_4"])


@pytest.mark.parametrize("workers", [1, 3])
def test_the_sum_over_the_new_ranks_is_that_over_the_old_ones(tmp_path: Path, workers: int) -> None:
    for rank in range(2):
        torch.save({"interval": interval(rank)}, tmp_path / f"rank-{rank}.pt")
    found = []
    for rank in range(workers):
        with mock.patch.object(dist, "get_rank", lambda rank=rank: rank):
            found.append(checkpoint._interval_of_all(tmp_path, 2))
    # Logging stacks the losses of a rank in their order.
    assert [list(each["losses"]) for each in found] == [["rr", "age"]] * workers
    assert sum(each["losses"]["rr"] for each in found) == 3
    assert sum(each["losses"]["age"] for each in found) == 10
    assert torch.equal(sum(each["load"] for each in found), torch.full((2, 3), 3.0))
    # Every rank counts the steps by itself.
    assert all(each["steps"] == 4 and each["dead"] == ["rhythm_1_2_4"] for each in found)


def test_random_numbers_of_another_layout_depend_on_seed_rank_and_step() -> None:
    drawn = set()
    for seed, rank, step in ((0, 0, 5), (1, 0, 5), (0, 1, 5), (0, 0, 6), (0, 0, 5)):
        with mock.patch.object(dist, "get_rank", lambda rank=rank: rank):
            checkpoint._seed_anew(seed, step)
        drawn.add(torch.rand(1).item())
    assert len(drawn) == 4


def test_the_time_that_a_step_waits_for_data_is_counted() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    load = RoutingLoad(["rr"], [], torch.device("cpu"))
    progress = Progress(TrainingConfig(), 10, 0, None, load)
    started = time.perf_counter()
    for _ in progress.waiting_for(slow()):
        time.sleep(0.2)
    # No sleep is shorter than it says, and what the loop does with a batch is no waiting.
    assert 0.15 <= progress.waited <= time.perf_counter() - started - 0.6
    assert progress.interval()["waited"] == progress.waited
