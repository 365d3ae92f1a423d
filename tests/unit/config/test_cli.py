"""How a job ends: mistakes that a user can mend in one line, this program's own faults with their traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ecgmoe.cli import run_job
from ecgmoe.datasets.schema import DatasetError

# As Ray Data 2.60 raises it: the worker's traceback, and advice of its own below.
RAY_DATA = """ray::MapBatches(PrepareShard)() (pid=28860, ip=192.0.2.2)
  File "ecgmoe/pipeline/store.py", line 96, in writing
    raise refused_write(error, self.path(name)) from error
{cause}

The above exception was the direct cause of the following exception:

ray::MapBatches(PrepareShard)() (pid=28860, ip=192.0.2.2)
ray.exceptions.UserCodeException: UDF failed to process a data block.
Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
To change retry attempts, backoff, or which errors are retried, configure `ray.data.DataContext.get_current()` \
(`retried_io_errors` for I/O; `retried_map_errors` and `max_map_retries` for any task) if you believe this to be transient."""
BOTH = """OSError: [Errno 28] No space left on device

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
ecgmoe.pipeline.store.StorageError: cannot write /x: the disk is full"""
HIDDEN = """ValueError: not a number

During handling of the above exception, another exception occurred:

AttributeError: 'NoneType' object has no attribute 'name'"""


class RayError(Exception):
    """Stands for Ray's, which are told by their module."""

    __module__ = "ray.exceptions"


class RayValueError(RayError, ValueError):
    """Ray makes its errors instances of their cause's class too."""

    __module__ = "ray.exceptions"


def ends(error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[str, int]:
    """What a job that fails with `error` prints, and its exit code."""
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(reconfigure=lambda **_: None))

    def main(argv: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run_job(main)
    return capsys.readouterr().err, int(end.value.code or 0)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        ("ecgmoe.pipeline.store.StorageError: cannot write /x: the disk is full", "cannot write /x: the disk is full"),
        ("ecgmoe.datasets.schema.DatasetError: a.csv is empty", "a.csv is empty"),
        ("ValueError: two\nlines: of text", "two"),
        ("OSError: [Errno 5] Input/output error", "[Errno 5] Input/output error"),
        ("PermissionError: [Errno 13] Permission denied", "[Errno 13] Permission denied"),
        (BOTH, "cannot write /x: the disk is full"),
    ],
)
@pytest.mark.parametrize("kind", [RayError, RayValueError])
def test_a_users_mistake_in_a_worker_is_one_line(
    kind: type[RayError],
    cause: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ends(kind(RAY_DATA.format(cause=cause)), monkeypatch, capsys) == (f"error: {expected}\n", 2)


def test_a_mistake_in_this_process_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(DatasetError("a.csv is empty"), monkeypatch, capsys) == ("error: a.csv is empty\n", 2)


@pytest.mark.parametrize(
    "error",
    [
        RayError(RAY_DATA.format(cause="TypeError: unsupported operand")),
        RayError(RAY_DATA.format(cause=HIDDEN)),
        RayError("The node died"),
        KeyError("gone"),
    ],
)
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(reconfigure=lambda **_: None))

    def main(argv: list[str]) -> None:
        raise error

    with pytest.raises(type(error)):
        run_job(main)


@pytest.mark.parametrize(
    ("second", "expected", "code"),
    [
        ("OSError: no such file", "worker 0: the disk is full; worker 1: no such file", 2),
        ("RuntimeError: gloo", "worker 0: the disk is full; worker 1: RuntimeError: gloo", 1),
    ],
)
def test_each_training_worker_has_its_reason(
    second: str, expected: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RayError("training failed")
    error.worker_failures = {  # type: ignore[attr-defined]
        0: RayError("Traceback:\necgmoe.pipeline.store.StorageError: the disk is full"),
        1: RayError(f"Traceback:\n{second}"),
    }
    assert ends(error, monkeypatch, capsys) == (f"error: {expected}\n", code)


def test_sigterm_ends_a_job_with_a_line_and_its_exit_code() -> None:
    script = "import time; from ecgmoe.cli import run_job; run_job(lambda _: (print('started'), time.sleep(60)))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[1] == b"terminated: the same command goes on from here\n"
    assert process.returncode == 143
