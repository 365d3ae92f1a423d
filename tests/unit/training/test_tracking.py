"""An MLflow store that is away keeps no training waiting, and gets every number once it is back."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ecgmoe.pipeline.store import StorageError, Store
from ecgmoe.training.tracking import Tracker, create_run


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, str, str]:
    """Folder of a database, its address, and a run in it."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    uri = f"sqlite:///{folder}/mlflow.db"
    return folder, uri, create_run(uri, "k", {}, {}, str(tmp_path / "artifacts"))


def logged(uri: str, run_id: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in MlflowClient(uri).get_metric_history(run_id, "loss")]


def test_numbers_wait_until_it_is_back(
    tmp_path: Path, store: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, uri, run_id = store
    away = folder.rename(tmp_path / "away")
    tracker = Tracker(uri, run_id, Store(tmp_path / "run"))
    for step in (1, 2):
        tracker.log({"loss": step / 2}, step, series="loss")
    tracker.keep()
    assert capsys.readouterr().out.count("MLFLOW IS AWAY, training goes on and its numbers are kept: MLflow at") == 1
    assert (tmp_path / "run" / Tracker.UNSENT).is_file()
    away.rename(folder)
    tracker.log({"loss": 1.5}, 3, series="loss")
    assert "MLflow is back: 3 logged steps were sent" in capsys.readouterr().out
    assert logged(uri, run_id) == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert not (tmp_path / "run" / Tracker.UNSENT).exists()


def test_whoever_logs_next_sends_them(tmp_path: Path, store: tuple[Path, str, str]) -> None:
    folder, uri, run_id = store
    run = Store(tmp_path / "run")
    Tracker(uri, run_id).log({"loss": 0.5}, 1, series="loss")
    away = folder.rename(tmp_path / "away")
    ended = Tracker(uri, run_id, run)
    # The first was logged before a restart, and is made again.
    for step in (1, 2):
        ended.log({"loss": step / 2}, step, series="loss")
    ended.keep()
    away.rename(folder)
    Tracker(uri, run_id, run).log({"loss": 1.5}, 3, series="loss")
    assert logged(uri, run_id) == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(StorageError, match=f"MLflow at {uri}: .*check MLFLOW_TRACKING_URI"):
        Tracker(uri, "some").log({"loss": 1.0}, 1)


FIRST = """
import sys, time
import mlflow, mlflow.store.db.utils
from ecgmoe.training.tracking import create_run
uri, artifacts, start = sys.argv[1:]
time.sleep(max(0, float(start) - time.time()))
print(create_run(uri, "k", {}, {}, artifacts))
"""


def test_runs_that_make_the_store_together(tmp_path: Path) -> None:
    """As trials of a table do, and people who start two trainings in one folder."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    # All have imported MLflow by then.
    arguments = [sys.executable, "-c", FIRST, uri, str(tmp_path / "artifacts"), str(time.time() + 20)]
    several = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(each.communicate(timeout=200), each.returncode) for each in several]
    assert [code for _, code in ended] == [0, 0, 0], ended
    client = MlflowClient(uri)
    assert {client.get_run(out.strip()).info.experiment_id for (out, _), _ in ended} == {"1"}
