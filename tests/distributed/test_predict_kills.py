"""predict survives a kill, with the bytes of a run that nobody interrupted."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from ecgmoe.datasets.folder import list_records
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.inference.predict_files import write_predictions
from ecgmoe.inference.record_table import REASON
from ecgmoe.pipeline.ray_data import connect
from jobs import Running, kill_what_stays, running
from jobs_here import job_here
from predict_examples import calibrated_model, without_ray

pytestmark = [pytest.mark.distributed, pytest.mark.ray]

STUDIES = 100


@pytest.fixture(autouse=True)
def without_ray_afterwards() -> Iterator[None]:
    yield
    ray.shutdown()


def listed(folder: Path, records: int) -> Path:
    """A table of so many paths to 100 simulated records, some of them damaged, through links to their folder."""
    simulate(folder / "raw", SimulationConfig(patients=STUDIES // 2, studies=STUDIES, seed=3))
    paths = list_records(str(folder / "raw" / "files")).paths
    copies = -(-records // len(paths))
    for copy in range(copies):
        (folder / f"copy-{copy:03d}").symlink_to(folder / "raw" / "files")
    rows = [f"copy-{copy:03d}/{path}" for path in paths for copy in range(copies)][:records]
    (folder / "list.csv").write_text("\n".join(["path", *rows]) + "\n")
    return folder / "list.csv"


def killed_and_continued(folder: Path, model: str, table: Path, after: int) -> tuple[bytes, str]:
    """Kill the driver when so many blocks are there, and run the same command again: what it wrote and printed."""
    out = folder / "killed.parquet"
    options = ["--model", model, "--input", str(table), "--out", str(out), "--workers", "2"]
    with running(folder / "killed.log", "predict", *options) as run:
        run_until(run, folder, blocks=1)
        mine = psutil.Process(run.process.pid).children(recursive=True)
        run_until(run, folder, blocks=after)
        run.process.kill()
        run.wait()
        kill_what_stays(mine, 1)
    assert not out.exists(), "predict was done before the kill: give it more records"
    connect(num_cpus=2)
    said = job_here("predict", *options)
    assert [path.name for path in folder.glob("*killed.parquet*")] == ["killed.parquet"]
    return out.read_bytes(), said


def run_until(run: Running, folder: Path, blocks: int) -> None:
    end = time.monotonic() + 240
    while len(list(folder.glob("killed.parquet.parts/*/part-*"))) < blocks:
        assert run.process.poll() is None, run.text()
        assert time.monotonic() < end, run.text()
        time.sleep(0.02)


def already_there(said: str) -> int:
    found = re.search(r"predict: ([\d,]+) of [\d,]+ records are there already", said)
    return int(found[1].replace(",", "")) if found else 0


def test_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, table = calibrated_model(tmp_path / "model"), listed(tmp_path, 400)
    found, said = killed_and_continued(tmp_path, model, table, after=3)
    # Three blocks of 32, but for the damaged records in them.
    assert already_there(said) > 80
    refused = sum(reason is not None for reason in pq.read_table(tmp_path / "killed.parquet")[REASON].to_pylist())
    assert f"killed.parquet: {400 - refused} records predicted, {refused} without (column reason)" in said
    assert (said.count("without prediction: ") > 0) == (refused > 0)
    without_ray(monkeypatch)
    write_predictions(model, str(table), str(tmp_path / "expected.parquet"))
    assert found == (tmp_path / "expected.parquet").read_bytes()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand_records(tmp_path: Path) -> None:
    """Two workers, killed in the middle, and the same command: the bytes of an uninterrupted run of two workers."""
    records = 10_000
    model, table = calibrated_model(tmp_path / "model"), listed(tmp_path, records)
    found, said = killed_and_continued(tmp_path, model, table, after=20)
    # Half of the blocks, but for the damaged records in them.
    assert already_there(said) > 4_500
    begun = time.monotonic()
    options = ["--model", model, "--input", str(table), "--workers", "2", "--out"]
    whole = job_here("predict", *options, str(tmp_path / "whole.parquet"))
    seconds = time.monotonic() - begun
    print(
        f"{records:,} records in {seconds:.0f} s, {records / seconds:.0f} records/s, {already_there(said):,} kept\n{whole}"
    )
    assert found == (tmp_path / "whole.parquet").read_bytes()
    table_of_all = pq.read_table(tmp_path / "whole.parquet")
    assert len(table_of_all) == len(set(table_of_all["path"].to_pylist())) == records
