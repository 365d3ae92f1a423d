"""A search as a user calls it: killed half-way, called again, and what it then says."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from jobs import REPOSITORY, Running, kill_what_stays, running
from prepared_examples import simulated_and_prepared

pytestmark = [pytest.mark.distributed, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(3600)]

TRIALS, KILLED_AFTER = 12, 4


def search(folder: Path, log: str) -> AbstractContextManager[Running]:
    options = ["--data", str(folder / "data"), "--storage", str(folder / "runs"), "--name", "lambda"]
    options += ["--trials", str(TRIALS), "--training.epochs", "4", "--grace-epochs", "1", "--reduction", "2"]
    options += ["--winner-seeds", "101", "102"]
    paths = [str(REPOSITORY), str(REPOSITORY / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    return running(folder / log, "search", "tuning_examples:small", *options, environment=environment, folder="tune")


def models(folder: Path) -> dict[str, int]:
    """When the model of each finished trial was written."""
    found = (folder / "runs" / "lambda").glob("trial-*/model/model.safetensors")
    return {path.parts[-3]: path.stat().st_mtime_ns for path in found}


def test_twelve_trials_survive_a_kill_and_repeat_nothing(tmp_path: Path) -> None:
    simulated_and_prepared(tmp_path, patients=150, studies=300)
    with search(tmp_path, "first.log") as first:
        first.wait_for(f"{KILLED_AFTER} of {TRIALS} after", timeout=1200)
        mine = first.descendants("")
        first.process.kill()
        first.wait()
        kill_what_stays(mine, 20)
    before = models(tmp_path)
    assert before
    with search(tmp_path, "again.log") as again:
        assert again.wait(2000) == 0, again.text()[-4000:]
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
