"""SIGTERM ends a job in order: a line that says how to go on, exit code 143, and none of its processes left."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from ecgmoe.ecg.simulate import SimulationConfig, simulate
from jobs import Running, job, running
from model_examples import saved_model

pytestmark = [pytest.mark.distributed, pytest.mark.ray, pytest.mark.long]


def terminate(run: Running) -> None:
    started = run.descendants("")
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 143, run.text()
    assert "terminated: the same command goes on from here" in run.text()
    assert "Traceback" not in run.text()
    assert not psutil.wait_procs(started, timeout=15)[1]


def test_prepare(tmp_path: Path) -> None:
    simulate(tmp_path / "raw", SimulationConfig(patients=600, studies=1200, seed=3))
    options = ["--dataset", "simulated", "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "data")]
    options += ["--shard-rows", "32"]
    with running(tmp_path / "log", "prepare", *options) as run:
        run.wait_for("of 1,200 records")
        terminate(run)
    assert "shards are there already" in job("prepare", *options)


def test_predict(tmp_path: Path) -> None:
    simulate(tmp_path / "raw", SimulationConfig(patients=600, studies=1200, seed=3))
    saved_model(tmp_path / "model")
    options = [
        "--model",
        str(tmp_path / "model"),
        "--input",
        str(tmp_path / "raw"),
        "--out",
        str(tmp_path / "out.parquet"),
    ]
    with running(tmp_path / "log", "predict", *options) as run:
        run.wait_for("records/s")
        terminate(run)
    assert not (tmp_path / "out.parquet").exists()


def test_simulating_before_a_training(tmp_path: Path) -> None:
    environment = {"ECGMOE_HOME": str(tmp_path)}
    with running(tmp_path / "log", "train", environment=environment) as run:
        run.wait_for("simulate: 5,000")
        terminate(run)
    with running(tmp_path / "again", "train", environment=environment) as run:
        run.wait_for("simulate: done")
        terminate(run)
