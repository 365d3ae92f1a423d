"""A training that is killed again and again, and what each kill costs."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from jobs import Running, kill_what_stays, running

WORKER = "RayTrainWorker"
LOG_EVERY_STEP = ("--training.log-every", "1")
SURVIVED = ("worker", "checkpoint", "hang")
"""Kinds after which the same driver goes on: a worker is killed, while a checkpoint is being written, or frozen."""
ENDED = ("term", "driver")
"""Kinds that end the driver: SIGTERM, which saves and leaves, and SIGKILL."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill.

    Attributes:
        kind: of `SURVIVED` or `ENDED`.
        step: that the training had told of.
        resumed: step of the checkpoint that it went on from.
        lost_s: seconds until it had made a step more than `step`.
    """

    kind: str
    step: int
    resumed: int
    lost_s: float


def train_through(
    options: Sequence[str], run: Path, kinds: Sequence[str], *, seed: int, logs: Path, apart: tuple[int, int] = (2, 6)
) -> tuple[list[Kill], str]:
    """Train to the end through all these kills, some steps apart, starting the driver again where it is gone.

    Args:
        options: of jobs/train.py, `LOG_EVERY_STEP` among them.
        run: folder of the run.
        kinds: in this order.
        seed: of the steps between kills and of the choice of the worker.
        logs: folder for what the drivers print.
        apart: least and most steps from where the training is back to the next kill.

    Returns:
        The kills, and all that was printed.
    """
    generator, left, kills = np.random.default_rng(seed), list(kinds), list[Kill]()
    pending: tuple[str, int, float] | None = None
    text = ""
    for attempt in range(len(kinds) + 1):
        with running(logs / f"{attempt}.log", "train", *options) as process:
            if pending:
                kills.append(_back(process, 0, *pending))
                pending = None
            while left and not pending:
                _wait_for_step(process, 0, _last_step(process.text()) + int(generator.integers(*apart)))
                kind = left.pop(0)
                if kind == "checkpoint":
                    _wait_for_unfinished(run / "checkpoints", process)
                told, start, mark = _last_step(process.text()), time.monotonic(), len(process.text())
                _end(process, kind, generator)
                if kind in SURVIVED:
                    kills.append(_back(process, mark, kind, told, start))
                else:
                    pending = kind, told, start
            if not pending:
                # The report, which comes after the model, is not looked at.
                _wait_for_model(run, process)
            text += process.text()
        if not pending:
            return kills, text
    raise AssertionError("never ended")


def table(kills: Sequence[Kill]) -> str:
    """The kills as a Markdown table."""
    rows = [f"| {each.kind} | {each.step} | {each.resumed} | {each.lost_s:.1f} |" for each in kills]
    return "\n".join(["| kill | at step | went on from step | seconds lost |", "|---|---:|---:|---:|", *rows])


def _end(process: Running, kind: str, generator: np.random.Generator) -> None:
    workers = process.descendants(WORKER)
    if kind == "term":
        process.process.terminate()
        assert process.wait() == 143, process.text()
    elif kind == "driver":
        ray = process.descendants("ray::")
        process.process.kill()
        # What holds the model and the data follows its driver.
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive
        kill_what_stays(ray, 1)
    else:
        victim = workers[int(generator.integers(len(workers)))]
        victim.send_signal(signal.SIGSTOP if kind == "hang" else signal.SIGKILL)


def _back(process: Running, mark: int, kind: str, step: int, start: float) -> Kill:
    """Wait until the training is where it was and a step further."""
    process.wait_for("resuming at epoch", times=process.text()[:mark].count("resuming at epoch") + 1)
    resumed = re.findall(r"resuming at epoch \d+, step ([\d,]+)", process.text()[mark:])
    _wait_for_step(process, process.text().rindex("resuming at epoch"), step + 1)
    return Kill(kind=kind, step=step, resumed=_number(resumed[-1]), lost_s=time.monotonic() - start)


def _wait_for_step(process: Running, mark: int, step: int, timeout: float = 600) -> None:
    end = time.monotonic() + timeout
    while _last_step(process.text()[mark:]) < step:
        assert process.process.poll() is None, f"ended before step {step}:\n{process.text()}"
        assert time.monotonic() < end, f"did not come to step {step} in {timeout} s:\n{process.text()}"
        time.sleep(0.05)


def _wait_for_unfinished(checkpoints: Path, process: Running, timeout: float = 600) -> None:
    """Wait until a checkpoint is there and not committed."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        assert process.process.poll() is None, process.text()
        for folder in checkpoints.iterdir():
            if not (folder / "manifest.json").exists() and any(folder.iterdir()):
                return
    raise AssertionError(f"no checkpoint was being written:\n{process.text()}")


def _wait_for_model(run: Path, process: Running, timeout: float = 900) -> None:
    end = time.monotonic() + timeout
    while not (run / "model" / "model.safetensors").exists():
        assert process.process.poll() is None, process.text()
        assert time.monotonic() < end, process.text()
        time.sleep(0.1)


def _last_step(text: str) -> int:
    found = re.findall(r"  step ([\d,]+)/", text)
    return _number(found[-1]) if found else 0


def _number(text: str) -> int:
    return int(text.replace(",", ""))
