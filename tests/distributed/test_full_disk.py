"""A disk that is full while workers write ends prepare in one line that says so; with more space it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecgmoe.ecg.simulate import SimulationConfig, simulate
from jobs import job

pytestmark = pytest.mark.distributed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    simulate(tmp_path / "raw", SimulationConfig(patients=40, studies=96, seed=3))
    options = ["--dataset", "simulated", "--root", str(tmp_path / "raw"), "--out", str(small_disk / "data")]
    text = job("prepare", *options, expect=2)
    assert "NOT ENOUGH, it will stop when the disk is full" in text
    last = text.strip().splitlines()[-1]
    assert last.startswith(f"error: cannot write {small_disk / 'data'}")
    assert "the disk is full: free some space and run the same command again" in last
    assert "Traceback" not in text
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert "excluded, exclusions.parquet says why" in job("prepare", *options)
