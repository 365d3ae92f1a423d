"""`ray job submit` on a running cluster with token authentication, and the refusal of who has no token."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs import REPOSITORY
from prepared_examples import simulated_and_prepared

pytestmark = [pytest.mark.distributed, pytest.mark.long]

RAY = str(Path(sys.executable).parent / "ray")
ADDRESS = "http://127.0.0.1:8301"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head node of its own with a fresh token; the environment of who may submit to it."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ECGMOE_HOME": str(tmp_path / "home"),
    }
    options = ["--head", "--port", "6401", "--dashboard-port", "8301", "--num-cpus", "2", "--block"]
    head = subprocess.Popen([RAY, "start", *options], env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while submit(environment, "list").returncode != 0:
            assert time.monotonic() < deadline, "the cluster did not start"
            time.sleep(1)
        yield environment
    finally:
        for each in [*psutil.Process(head.pid).children(recursive=True), head]:
            each.kill()
        head.wait(30)


def submit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", arguments[0], "--address", ADDRESS, *arguments[1:]],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_a_job_trains_and_a_stranger_is_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    data = simulated_and_prepared(tmp_path)
    job = ["python", "jobs/train.py", "tiny", "--data", str(data), "--run", "submitted", "--training.epochs", "1"]
    done = submit(environment, "submit", "--working-dir", ".", "--", *job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1/1  validation" in done.stdout
    # The default storage does not lie in the job's throw-away working directory.
    assert (tmp_path / "home" / "runs" / "submitted" / "report" / "metrics.json").is_file()

    failing = submit(environment, "submit", "--working-dir", ".", "--", "python", "jobs/train.py", "nonsense")
    assert failing.returncode != 0
    assert "unknown preset 'nonsense'" in failing.stdout + failing.stderr

    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32))
    stranger = submit({**environment, "RAY_AUTH_TOKEN_PATH": str(wrong)}, "submit", "--", "python", "-c", "print(1)")
    assert stranger.returncode != 0
    assert "authentication is enabled" in stranger.stdout + stranger.stderr
