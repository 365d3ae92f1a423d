"""Call the entry points as a user would: as processes of their own, on a Ray of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "RAY_ADDRESS": "local", "PYTHONUNBUFFERED": "1"}


def job(name: str, *arguments: str, expect: int = 0, timeout: float = 900, address: str = "local") -> str:
    """Run jobs/<name>.py to its end; returns what it printed and checks its exit code.

    `address` is a running Ray's, where starting one for each job would take too long.
    """
    done = subprocess.run(
        [sys.executable, f"jobs/{name}.py", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
        # Who joins a running Ray has to show its token, which ray.init left under the home folder.
        env={**ENVIRONMENT, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"},
        check=False,
    )
    text = done.stdout + done.stderr
    assert done.returncode == expect, text
    return text


class Running:
    """A job in the background, its output read from a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def text(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, needle: str, *, times: int = 1, timeout: float = 600) -> None:
        """Wait until it printed `needle` so often; fails with its output when it ends or the time is over."""
        end = time.monotonic() + timeout
        while self.text().count(needle) < times:
            assert self.process.poll() is None, f"ended before it said {needle!r}:\n{self.text()}"
            assert time.monotonic() < end, f"did not say {needle!r} in {timeout} s:\n{self.text()}"
            time.sleep(0.2)

    def wait(self, timeout: float = 600) -> int:
        """Its exit code."""
        return self.process.wait(timeout)

    def descendants(self, name: str) -> list[psutil.Process]:
        """Its child processes whose command line holds `name`."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if name in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found


@contextmanager
def running(
    log: Path, name: str, *arguments: str, environment: dict[str, str] | None = None, folder: str = "jobs"
) -> Iterator[Running]:
    """Start FOLDER/<name>.py in the background; it and its children are gone afterwards, whatever happens."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, f"{folder}/{name}.py", *arguments],
            cwd=REPOSITORY,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, **(environment or {})},
            start_new_session=True,
        )
    started = psutil.Process(process.pid)
    try:
        yield Running(process, log)
    finally:
        children = started.children(recursive=True) if started.is_running() else []
        kill([*children, started])
        process.wait(30)


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill these; one that ends by itself just then is as good."""
    for each in processes:
        with suppress(psutil.Error):
            each.kill()


def kill_what_stays(processes: list[psutil.Process], timeout: float) -> None:
    """Of a job that was killed: its actors follow it by themselves, two small agents of Ray stay."""
    kill(psutil.wait_procs(processes, timeout)[1])
