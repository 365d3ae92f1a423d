"""A disk that is full or read-only ends a stage in one line that says so; with more space it goes on from what is done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from torch.multiprocessing import ProcessRaisedException

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig, tiny
from ecgmoe.config_tools import to_dict
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.filesystem import StorageError, temporary_folder
from ecgmoe.inference.record_table import REASON
from ecgmoe.model.config import ModelConfig
from ecgmoe.pipeline.config import PrepareConfig
from ecgmoe.pipeline.ray_data import connect
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.checkpoint_store import CheckpointStore
from ecgmoe.training.config import TrainingConfig
from jobs import job
from jobs_here import job_here
from model_examples import saved_model
from prepared_examples import prepare_here
from resume_examples import run_jobs
from training_examples import job_of

pytestmark = [pytest.mark.distributed, pytest.mark.ray]

FULL = "the disk is full: free some space and run the same command again"


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, options: str) -> bool:
        """Mount it, or change what it is mounted with."""
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return os.geteuid() == 0 and not subprocess.run(command, check=False, capture_output=True).returncode

    def fill(self, leave: int) -> None:
        """Leave so many bytes."""
        (self.folder / "filler").write_bytes(bytes(max(0, shutil.disk_usage(self.folder).free - leave)))

    def free(self) -> None:
        (self.folder / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 16 MB."""
    disk = Disk(tmp_path / "disk")
    disk.folder.mkdir()
    if not disk.mount("size=16m"):
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk.folder)], check=True)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all stages."""
    connect(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ECGs in raw/, prepared in data/, and a model in model/."""
    folder = tmp_path_factory.mktemp("made")
    simulate(folder / "raw", SimulationConfig(patients=40, studies=96, seed=3))
    prepare_here(folder / "raw", folder / "data", PrepareConfig(shard_rows=32))
    saved_model(folder / "model")
    return folder


def refused(name: str, *options: str, path: Path, reason: str = FULL) -> str:
    """Run a stage that cannot write below `path`; returns what it printed.

    As a process, with which the actors of the failed stage end too.
    """
    text = job(name, *options, expect=2, address=ray.get_runtime_context().gcs_address)
    # Ray may have something to say after it.
    last = [line for line in text.splitlines() if line.startswith("error: ")][-1]
    assert last.startswith(f"error: cannot write {path}"), text
    assert reason in last
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    return text


def test_prepare(made: Path, disk: Disk) -> None:
    options = ["--dataset", "simulated", "--root", str(made / "raw"), "--out", str(disk.folder / "data")]
    disk.fill(leave=3 << 20)
    text = refused("prepare", *options, path=disk.folder / "data")
    assert "NOT ENOUGH, it will stop when the disk is full" in text
    disk.free()
    assert "excluded, exclusions.parquet says why" in job_here("prepare", *options)


def test_embed(made: Path, disk: Disk) -> None:
    data = disk.folder / "data"
    shutil.copytree(made / "data", data)
    options = ["tiny", "--data", str(data), "--backbones.3.mode", "full", "--backbones.4.mode", "full"]
    # Room for one shard of features, of three.
    disk.fill(leave=30_000)
    refused("embed", *options, path=data / "features")
    there = {path: path.stat().st_mtime_ns for path in data.glob("features/*/shard-*")}
    assert not list(data.glob("features/*/.*"))
    disk.free()
    assert "moment: " in job_here("embed", *options)
    assert len(list(data.glob("features/*/shard-*"))) == 3
    assert {path: path.stat().st_mtime_ns for path in there} == there


def test_predict(made: Path, disk: Disk) -> None:
    out = disk.folder / "out.parquet"
    options = ["--model", str(made / "model"), "--input", str(made / "raw" / "files"), "--out", str(out)]
    # Room for two of the three blocks.
    disk.fill(leave=44_000)
    refused("predict", *options, path=out)
    parts = [pq.read_table(path) for path in disk.folder.glob("out.parquet.parts/*/part-*")]
    assert 0 < len(parts) < 3
    assert not out.exists()
    disk.free()
    text = job_here("predict", *options)
    # A record without prediction is read again.
    kept = sum(part[REASON].null_count for part in parts)
    assert (f"predict: {kept} of 96 records are there already, continuing with the others" in text) == (kept > 0)
    assert len(pq.read_table(out)) == 96
    assert [path.name for path in disk.folder.iterdir()] == ["out.parquet"]


def test_a_checkpoint(made: Path, disk: Disk) -> None:
    """What has no room is named; the checkpoint before it is what the run goes on from."""
    run = disk.folder / "k"
    config = RunConfig(
        backbones=(BackboneConfig(name="dlinear", size="tiny", mode="full"),),
        model=ModelConfig(width=16),
        training=TrainingConfig(num_workers=2, epochs=3, global_batch=8, slots=4, log_every=100),
    )
    job = {**job_of(config, made / "data"), "run": str(run)}
    job["mlflow_run_id"] = tracking.create_run(job["tracking_uri"], "k", {}, {}, str(made / "artifacts"))
    # Room for one checkpoint and a part of another.
    disk.fill(leave=3_000_000)
    with pytest.raises(ProcessRaisedException, match=f"StorageError: cannot write {run}/checkpoints/.*: {FULL}"):
        run_distributed(run_jobs, 2, [{"job": job, "stops": []}])
    first, *more = CheckpointStore(Store(run)).committed()
    assert not more
    assert first.name.endswith("epoch-0001")
    disk.free()
    whole, _ = run_distributed(run_jobs, 2, [{"job": job, "stops": []}])
    steps = first.step
    assert sorted(whole[0]["seen"]) == list(range(steps, 3 * steps)), "it went on from that checkpoint"


@pytest.mark.long
def test_train(made: Path, disk: Disk) -> None:
    """The checkpoint that has no room ends the run at once, and the one before is what it goes on from."""
    runs = disk.folder / "runs"
    options = [
        "tiny",
        "--variant",
        "single_dlinear",
        "--data",
        str(made / "data"),
        "--storage",
        str(runs),
        "--run",
        "k",
    ]
    options += ["--training.epochs", "3"]
    # Room for MLflow's database (1.0 MB), and for one checkpoint of 0.9 MB and a part of another.
    disk.fill(leave=2_300_000)
    text = refused("train", *options, path=runs / "k" / "checkpoints" / "step-00000004-epoch-0002")
    assert "epoch 1/3  validation" in text
    # Nothing is gained by trying again.
    assert "WORKER" not in text
    assert [path.name for path in (runs / "k" / "checkpoints").iterdir()] == ["step-00000002-epoch-0001"]
    disk.free()
    text = job("train", *options, address=ray.get_runtime_context().gcs_address)
    assert "resuming at epoch 2, step 2 of 6" in text
    assert "epoch 3/3  validation" in text


@pytest.mark.long
def test_evaluate(made: Path, disk: Disk) -> None:
    run = disk.folder / "runs" / "k"
    shutil.copytree(made / "model", run / "model")
    config = replace(tiny(), model=ModelConfig(width=16))
    stored = {"config": to_dict(config), "data": {"folder": str(made / "data")}}
    (run / "config.json").write_text(json.dumps(stored))
    options = ["--run", "k", "--storage", str(disk.folder / "runs"), "--split", "validation"]
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    refused("evaluate", *options, path=run, reason="the file system is read-only: choose another folder")
    subprocess.run(["mount", "-o", "remount,rw", str(disk.folder)], check=True)
    uri = tracking.default_uri(str(disk.folder / "runs"))
    identity = tracking.create_run(uri, "k", {}, {}, str(disk.folder / "runs" / "mlflow-artifacts"))
    (run / "mlflow.json").write_text(json.dumps({"tracking_uri": uri, "run_id": identity}))
    disk.fill(leave=4096)
    refused("evaluate", *options, path=run)
    with pytest.raises(StorageError, match=f"MLflow at {uri}: the disk is full: free some space"):
        tracking.Tracker(uri, identity).log({"a" * 200 + str(number): 1.0 for number in range(500)}, step=0)
    disk.free()
    assert "report " in job_here("evaluate", *options)
    assert (run / "report-validation" / "metrics.json").exists()


def test_the_temporary_folder(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    with (
        pytest.raises(StorageError, match=f"temporary folder {disk.folder} .*: free some space there, or set TMPDIR"),
        temporary_folder() as folder,
    ):
        (folder / "model").write_bytes(bytes(20 << 20))
    assert list(disk.folder.iterdir()) == []
