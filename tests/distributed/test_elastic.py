"""A node is cut in the middle of a training: the run goes on with the workers that are left, and ends."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from jobs import running
from prepared_examples import simulated_and_prepared

pytestmark = [pytest.mark.distributed, pytest.mark.long]

EPOCHS = 12
ADDRESS = "127.0.0.1:6403"


@contextmanager
def node(log: Path, environment: dict[str, str], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node of one CPU with all its processes."""
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "start", "--num-cpus", "1", "--block", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """As a machine that loses its power."""
    if process.poll() is None:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        process.wait(30)


def test_a_lost_node_costs_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    data = simulated_and_prepared(tmp_path)
    (tmp_path / "token").write_text(secrets.token_hex(32))
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "RAY_ADDRESS": ADDRESS}
    options = ["tiny", "--data", str(data), "--run", "k", "--storage", str(tmp_path / "runs")]
    options += ["--training.epochs", str(EPOCHS), "--training.min-workers", "1"]
    # Nothing to embed: that is not what is tested.
    options += [part for number in (2, 3, 4) for part in (f"--backbones.{number}.mode", "full")]
    head = ("--head", "--port", ADDRESS.rpartition(":")[2], "--include-dashboard", "false")
    with (
        node(tmp_path / "head.log", access, *head),
        node(tmp_path / "second.log", access, "--address", ADDRESS) as second,
        running(tmp_path / "log", "train", *options, environment={**access, "ECGMOE_SHARED_MOUNT": "1"}) as run,
    ):
        run.wait_for(f"epoch 2/{EPOCHS}  validation")
        kill(second)
        run.wait_for("resuming at epoch")
        assert run.wait() == 0, run.text()
    assert f"epoch {EPOCHS}/{EPOCHS}  validation" in run.text()
    metrics = json.loads((tmp_path / "runs" / "k" / "report" / "metrics.json").read_text())
    assert metrics["tasks"]["rr"]["n"] > 0
