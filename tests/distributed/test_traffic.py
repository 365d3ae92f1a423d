"""What two real workers move in a step is what the plan says, to the byte."""

from __future__ import annotations

from collections import Counter

import pytest

from distributed import run_distributed
from ecgmoe.benchmark.traffic import plan, travels_of
from ecgmoe.benchmark.traffic_count import example, steps

pytestmark = pytest.mark.distributed


def test_counted_payloads_are_the_planned_ones() -> None:
    config = example()
    travels, records = travels_of(config), config.training.global_batch // config.training.num_workers
    ranks = run_distributed(steps, 2, config)
    assert ranks[0] == ranks[1]
    for stage, counted in ranks[0].items():
        planned: Counter[str] = Counter()
        for each in plan(int(stage), travels, 2, records):
            planned[each.kind] += each.payload
        assert counted == dict(planned), f"stage {stage}"
