"""SIGTERM while Ray runs ends a job in order, in the middle of trials too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs import ENVIRONMENT, REPOSITORY

pytestmark = [pytest.mark.distributed, pytest.mark.ray]

JOB = """
import os, signal, sys, threading, time
from ecgmoe.cli import run_job
from ecgmoe.pipeline.ray_data import connect

def term():
    os.kill(os.getpid(), signal.SIGTERM)

def wait(argv):
    connect(1, dashboard=False)
    term()
    time.sleep(60)

def call(values):
    time.sleep(600)

def trials(argv):
    from ray import tune
    from ecgmoe.pipeline.store import Store
    from ecgmoe.tuning.trials import run_trials
    connect(2, dashboard=False)
    threading.Timer(10, term).start()
    place = {"store": Store(argv[1]), "name": "one", "at_once": 2, "label": str, "total": 2}
    run_trials(call, {"number": tune.grid_search([0, 1])}, **place)

run_job(lambda argv: globals()[argv[0]](argv))
"""


@pytest.mark.parametrize("where", ["wait", "trials"])
def test_sigterm_with_ray(where: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", JOB, where, str(tmp_path)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 143, done.stderr
    assert "terminated: the same command goes on from here" in done.stderr
    assert "SIGTERM received at time" not in done.stderr
