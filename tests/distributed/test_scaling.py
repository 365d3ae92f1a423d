"""A training step on one worker and on two, which take turns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ecgmoe.benchmark.page import rows_of
from ecgmoe.benchmark.scaling import scaling_benchmark
from prepared_examples import simulated_and_prepared
from tuning_examples import small

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


def test_one_worker_and_two(tmp_path: Path) -> None:
    config = small()
    # Without a cached backbone nothing asks for Ray.
    backbones = tuple(replace(each, mode="full") for each in config.backbones)
    config = replace(config, backbones=backbones, training=replace(config.training, global_batch=8, slots=8))
    data = simulated_and_prepared(tmp_path, patients=240, studies=480)
    found = json.loads(json.dumps(scaling_benchmark(str(data), config, preset="small", pairs=6)))
    two = found["workers"]["2"]
    assert found["workers"].keys() == {"2"}
    assert found["device"] == "cpu"
    assert found["ms_per_step"] > 0
    assert two["ms_per_step"] > 0
    assert two["apart_ms_per_step"] > 0
    assert [len(two[name]["ratios"]) for name in ("times_as_fast", "apart_share")] == [6, 6]
    # Two on one machine cannot be more than twice as fast; slices on a busy machine may differ by half.
    assert 0.1 < two["times_as_fast"]["median"] < 3
    assert [row.stage for row in rows_of({"stage": "scaling", **found})] == ["scaling"] * 2
    few = replace(config, training=replace(config.training, global_batch=64))
    with pytest.raises(ValueError, match="steps in an epoch and 36 are measured: give more records"):
        scaling_benchmark(str(data), few, preset="small", pairs=6)
