"""A search as a user calls it: killed half-way, called again, and what it then says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from jobs import REPOSITORY
from prepared_examples import simulated_and_prepared

pytestmark = [pytest.mark.distributed, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(2400)]

TRIALS, KILLED_AFTER = 12, 4


def command(folder: Path, *more: str) -> list[str]:
    options = ["--data", str(folder / "data"), "--storage", str(folder / "runs"), "--name", "lambda"]
    options += ["--trials", str(TRIALS), "--training.epochs", "4", "--grace-epochs", "1", "--reduction", "2"]
    options += ["--winner-seeds", "101", "102", *more]
    return [sys.executable, str(REPOSITORY / "tune" / "search.py"), "tuning_examples:small", *options]


def environment() -> dict[str, str]:
    paths = [str(REPOSITORY), str(REPOSITORY / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def models(folder: Path) -> dict[str, int]:
    """When the model of each finished trial was written."""
    found = (folder / "runs" / "lambda").glob("trial-*/model/model.safetensors")
    return {path.parts[-3]: path.stat().st_mtime_ns for path in found}


def test_twelve_trials_survive_a_kill_and_repeat_nothing(tmp_path: Path) -> None:
    simulated_and_prepared(tmp_path, patients=150, studies=300)
    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(command(tmp_path), stdout=log, stderr=log, env=environment())
        end = time.monotonic() + 1200
        while f"{KILLED_AFTER} of {TRIALS} after" not in (tmp_path / "first.log").read_text():
            assert first.poll() is None, (tmp_path / "first.log").read_text()[-4000:]
            assert time.monotonic() < end, (tmp_path / "first.log").read_text()[-4000:]
            time.sleep(0.5)
        mine = psutil.Process(first.pid).children(recursive=True)
        first.kill()
        first.wait()
        for each in psutil.wait_procs(mine, timeout=20)[1]:
            each.kill()
    before = models(tmp_path)
    assert before
    again = subprocess.run(command(tmp_path), capture_output=True, text=True, env=environment(), check=False)
    assert again.returncode == 0, again.stderr[-4000:]
    assert {name: time for name, time in models(tmp_path).items() if name in before} == before
    report = tmp_path / "runs" / "lambda" / "report"
    found = json.loads((report / "search.json").read_text())
    assert len(found["trials"]) == TRIALS
    assert not [each for each in found["trials"] if each["failure"]]
    scores = {each["run"]: each["score"] for each in found["trials"]}
    assert found["winner"]["score"] == max(scores.values())
    assert found["winner"]["values"]["loss.contrastive_weight"] > 0
    # Some were ended early, none before its grace.
    epochs = [each["epochs"] for each in found["trials"]]
    assert min(epochs) >= 1
    assert max(epochs) == 4
    assert min(epochs) < 4
    for each in found["trials"]:
        assert len(each["curve"]["score"]) == each["epochs"]
    assert found["winner_seeds"] == [101, 102]
    assert "learning_curves.svg" in {path.name for path in report.iterdir()}
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    parent = json.loads((tmp_path / "runs" / "lambda" / "mlflow.json").read_text())["run_id"]
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.run_name for run in children} == {*scores, "winner-seed101", "winner-seed102"}
    assert client.get_model_version("lambda", "1").run_id in {run.info.run_id for run in children}
