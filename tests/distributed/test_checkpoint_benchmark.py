"""Checkpoints beside torch.save and torch.load of the same tensors."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ecgmoe.benchmark.checkpoint import checkpoint_benchmark
from ecgmoe.benchmark.page import rows_of
from prepared_examples import simulated_and_prepared
from tuning_examples import small

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


def test_save_and_load_beside_torch(tmp_path: Path) -> None:
    config = small()
    # Without a cached backbone nothing asks for Ray.
    config = replace(config, backbones=tuple(replace(each, mode="full") for each in config.backbones))
    data, scratch = simulated_and_prepared(tmp_path, patients=30, studies=60), tmp_path / "scratch"
    scratch.mkdir()
    # The process group stays in the process that asked for it, which is not to be that of the other tests.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(checkpoint_benchmark, str(data), config, scratch, preset="small", pairs=6).result()
    for name in ("save", "load"):
        part = found[name]
        share = part["bare_share"]
        assert part["seconds"] > 0
        assert part["bare_seconds"] > 0
        assert len(share["ratios"]) == 6
        assert 0 < share["low"] <= share["median"] <= share["high"]
    assert {"deepspeed", "model", "portable.safetensors", "position.json", "rank-0.pt"} == found["bytes"].keys()
    # The bare file has the tensors of both, and little else.
    tensors = found["bytes"]["portable.safetensors"] + found["bytes"]["model"]
    assert 0.9 * tensors < found["bare_bytes"] < 1.3 * tensors
    # Of fourteen and more saves two are kept.
    assert len(list((scratch / "run" / "checkpoints").iterdir())) == 2
    assert [row.stage for row in rows_of({"stage": "checkpoint", **found})] == ["checkpoint"] * 2
    few = replace(config, training=replace(config.training, global_batch=4096))
    with pytest.raises(ValueError, match="training records and a step takes 4096: choose another --root"):
        checkpoint_benchmark(str(data), few, scratch, preset="small", pairs=6)
