"""SIGTERM while Ray runs ends a job in order."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jobs import ENVIRONMENT, REPOSITORY

pytestmark = [pytest.mark.distributed, pytest.mark.ray]

JOB = """
import os, signal, time
from ecgmoe.cli import run_job
from ecgmoe.pipeline.ray_data import connect

def main(argv):
    connect(1, dashboard=False)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

run_job(main)
"""


def test_sigterm_with_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOB],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert "terminated: the same command goes on from here" in done.stderr
    assert "SIGTERM received at time" not in done.stderr
