"""embed survives kills with the bytes of an uninterrupted run, and computes only what is not there."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from ecgmoe.config import tiny
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.pipeline import embed
from ecgmoe.pipeline.config import EmbedConfig, PrepareConfig
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.ray_data import actors, connect, map_shards
from jobs import job, running
from prepared_examples import embed_here, prepare_here

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


def content(data: Path) -> dict[str, bytes]:
    files = [path for path in sorted((data / "features").rglob("*")) if path.is_file()]
    return {str(path.relative_to(data)): path.read_bytes() for path in files}


def shards(data: Path) -> int:
    return len(list((data / "features").glob("*/shard-*.parquet")))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of an uninterrupted run in one process without Ray."""
    folder = tmp_path_factory.mktemp("expected")
    simulate(folder / "raw", SimulationConfig(patients=200, studies=400, seed=3))
    prepare_here(folder / "raw", folder / "data", PrepareConfig(shard_rows=32))
    shutil.copytree(folder / "data", folder / "prepared")
    embed_here(folder / "data", tiny().cached)
    return folder


@pytest.fixture
def data(expected: Path, tmp_path: Path) -> Path:
    """The same records without features."""
    shutil.copytree(expected / "prepared", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray that outlives what is killed: it is the files that matter, not who wrote them."""
    connect(num_cpus=3)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def test_a_kill_and_other_weights(expected: Path, data: Path, tmp_path: Path, address: str) -> None:
    options = ["tiny", "--data", str(data)]
    with running(tmp_path / "killed.log", "embed", *options) as run:
        end = time.monotonic() + 180
        while shards(data) < 4:
            assert run.process.poll() is None, run.text()
            assert time.monotonic() < end, run.text()
            time.sleep(0.02)
        run.process.send_signal(signal.SIGKILL)
        run.wait()
    assert not list((data / "features").glob("*/manifest.json")), "a manifest is written last"
    job("embed", *options, address=address)
    assert content(data) == content(expected / "data")
    # Other weights of one backbone: the others' features stay as they are.
    times = {path: path.stat().st_mtime_ns for path in (data / "features").rglob("*") if path.is_file()}
    others = [replace(each, seed=1) if each.name == "moment" else each for each in tiny().cached]
    embed_here(data, others)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    added = {path.parent.name for path in (data / "features").rglob("shard-*.parquet") if path not in times}
    assert len(added) == 1
    assert added.pop().startswith("moment-")


def test_actors_that_would_never_start_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="4 workers of 1 CPU each, and this cluster holds 3: set workers to at most 3"):
        actors(10, 0, workers=4)
    with pytest.raises(ValueError, match=r"num_gpus 0.5 per actor, but this cluster has 0 GPUs"):
        actors(10, 0.5)


def test_three_operators_write_what_one_writes(expected: Path, data: Path, address: str) -> None:
    """The way of a machine with GPUs, on actors without one."""
    prepared = PreparedData(str(data))
    keyed, manifests = embed.feature_plan(prepared, tiny().cached, "fp32")
    todo = embed.unfinished(prepared.store, prepared.manifest["shards"], list(manifests))
    config = EmbedConfig(workers=2, num_gpus=0)
    steps = embed.steps(prepared.store, keyed, len(todo), config, "fp32", apart=True)
    assert len(steps) == 3
    records = [table["records"][0].as_py() for table in map_shards("embed", todo, *steps)]
    embed.finish(prepared.store, manifests)
    assert sum(records) == prepared.manifest["records"]
    assert content(data) == content(expected / "data")
