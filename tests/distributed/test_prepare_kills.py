"""prepare survives kills at random moments, with the bytes of an uninterrupted run and of another number of workers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.pipeline.config import PrepareConfig
from jobs import running
from jobs_here import job_here
from prepared_examples import prepare_here

pytestmark = [pytest.mark.distributed, pytest.mark.ray]

WORKER = "PrepareShard"
SHARD_ROWS = 32


def shards(data: Path) -> int:
    return len(list((data / "records").glob("shard-*.parquet")))


def content(data: Path) -> dict[str, bytes]:
    """All that prepare wrote, but for the times of the tables that it read."""
    files = [path for path in sorted(data.rglob("*")) if path.is_file() and path.name != "inputs.json"]
    return {str(path.relative_to(data)): path.read_bytes() for path in files}


def kill_and_continue(folder: Path, kinds: list[str], studies: int) -> None:
    """One process without Ray gives the expected bytes; then prepare is killed once for each of `kinds` and continued."""
    simulate(folder / "raw", SimulationConfig(patients=studies // 2, studies=studies, seed=3))
    prepare_here(folder / "raw", folder / "expected", PrepareConfig(shard_rows=SHARD_ROWS))
    random, data = np.random.default_rng(0), folder / "data"
    options = ["--dataset", "simulated", "--root", str(folder / "raw"), "--out", str(data)]
    options += ["--shard-rows", str(SHARD_ROWS)]
    for number, kind in enumerate(kinds):
        before = shards(data)
        with running(folder / f"{number}.log", "prepare", *options) as run:
            end, wanted = time.monotonic() + 120, before + int(random.integers(1, 3))
            while shards(data) < wanted:
                assert run.process.poll() is None, run.text()
                assert time.monotonic() < end, run.text()
                time.sleep(0.02)
            time.sleep(random.uniform(0, 0.2))
            assert run.process.poll() is None, f"prepare was done before kill {number}: give it more studies"
            if kind == "worker":
                while not (victims := run.descendants(WORKER)):  # between two shards a worker has another name
                    assert run.process.poll() is None, run.text()
                victims[0].send_signal(signal.SIGKILL)
                # Ray starts another worker, and the same run goes on.
                here = shards(data)
                while shards(data) == here:
                    assert run.process.poll() is None, run.text()
                    time.sleep(0.05)
            run.process.send_signal({"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}.get(kind, signal.SIGKILL))
            assert run.wait() != 0, f"prepare was done before {kind} {number}: give it more studies\n{run.text()}"
        assert not (data / "manifest.json").exists(), "the manifest is written last"
    # In this process, once more and for labels alone without the seconds of a start.
    said = job_here("prepare", *options)
    assert f"of {len(list((folder / 'expected' / 'records').iterdir()))} shards are there already" in said
    assert content(data) == content(folder / "expected")
    assert not list(data.rglob(".*")), "a half-written file was left behind"
    assert "nothing to do" in job_here("prepare", *options)
    job_here("prepare", *options, "--relabel", "--index.split-seed", "4")
    before, after = content(folder / "expected"), content(data)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"labels.parquet", "manifest.json", "card.json", "card.html"}


@pytest.fixture(autouse=True)
def without_ray_afterwards() -> Iterator[None]:
    yield
    ray.shutdown()


def test_three_kills(tmp_path: Path) -> None:
    kill_and_continue(tmp_path, ["driver", "worker", "interrupt"], studies=2400)


@pytest.mark.long
def test_ten_kills(tmp_path: Path) -> None:
    kinds = [
        "driver",
        "worker",
        "terminate",
        "driver",
        "interrupt",
        "worker",
        "driver",
        "driver",
        "worker",
        "terminate",
    ]
    kill_and_continue(tmp_path, kinds, studies=1600)
