"""Stages on a Ray with too few CPUs: refused where they would never start, and not silent where others hold them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.pipeline.prepare import prepare
from ecgmoe.pipeline.ray_data import Step, actors, connect, map_shards
from jobs_here import job_here, last_line
from prepared_examples import prepare_here

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


@contextmanager
def cluster(cpus: int) -> Iterator[None]:
    if cpus:
        connect(num_cpus=cpus)
    else:
        ray.init(address="local", num_cpus=0)
    try:
        yield
    finally:
        ray.shutdown()


def test_no_cpu_at_all(tmp_path: Path) -> None:
    simulate(tmp_path / "raw", SimulationConfig(patients=10, studies=20, seed=1))
    prepare_here(tmp_path / "raw", tmp_path / "data")
    with cluster(0):
        with pytest.raises(
            ValueError, match="prepare needs a task of 1 CPU, and this cluster has 0 CPUs: it would never"
        ):
            prepare("simulated", str(tmp_path / "raw"), str(tmp_path / "out"))
        said = job_here("embed", "tiny", "--data", str(tmp_path / "data"), expect=2)
        assert last_line(said).startswith(
            "error: embed needs 1 actor of 1 CPU, and this cluster has 0 CPUs: it would never"
        )


@pytest.mark.long
def test_one_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    shards = [pa.table({"shard": [number]}) for number in range(3)]

    class Same:
        """Gives back what it gets. Made here, it travels to the workers, who cannot import this file."""

        def __call__(self, table: pa.Table) -> pa.Table:
            return table

    with cluster(1):
        pool: Step = (Same, actors(3))
        with pytest.raises(
            ValueError, match=r"1 actor of 1 CPU, a task of 1 CPU at the same time, .* 1 CPU: some of them"
        ):
            next(map_shards("embed", shards, pool, (Same(), {"num_cpus": 1})))

        @ray.remote(num_cpus=1)
        def other() -> None:
            time.sleep(8)

        busy = other.remote()
        while ray.available_resources().get("CPU"):
            time.sleep(0.1)
        assert len(list(map_shards("embed", shards, pool))) == 3
        ray.get(busy)
    said = capsys.readouterr().out
    assert said.count("embed: waiting: 1 of 1 CPU are used by other jobs; it goes on when they are free") == 1
