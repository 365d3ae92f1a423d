"""Trials through Ray Tune: each is a function call in a process of its own, and most of them train with workers of their own.

The process of a trial with workers waits for them, and so takes no CPU: what is counted are the workers. It runs on the node
of the driver, where Ray counts nothing else against it. A trial that trains alone takes a CPU, wherever there is one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.tune.search.basic_variant import BasicVariantGenerator

from ecgmoe.pipeline.ray_data import connect
from ecgmoe.pipeline.store import Store
from ecgmoe.training.config import TrainingConfig
from ecgmoe.worker_errors import reason

STATE = "tune"
"""Folder of Ray Tune's own state, below that of the search."""
# A KeyboardInterrupt ends the driver, and Ray all processes of its job; Ray Tune would wait for the trials instead.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
# Its newer output prints boxes also where it is asked to be silent.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

Call = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a trial ended.

    Attributes:
        trial: Ray Tune's id of it.
        values: that it was called with.
        last: what it reported last; empty where it never did.
        failure: one line where it failed.
        lost: it did, because its process ended: another attempt may well succeed.
    """

    trial: str
    values: dict[str, Any]
    last: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    lost: bool = False


def at_once(training: TrainingConfig, wanted: int | None) -> int:
    """Trials side by side: as many as the cluster has room for with their workers, or `wanted`.

    Raises:
        ValueError: there is no room for so many.
    """
    connect()
    kind = "GPU" if training.use_gpu else "CPU"
    there = int(ray.cluster_resources().get(kind, 0))
    room = max(1, there // training.num_workers)
    if wanted is None:
        return room
    if not 1 <= wanted <= room:
        raise ValueError(
            f"{wanted} trials at once with {training.num_workers} workers each, and this cluster has {there} {kind}s: set "
            f"--at-once between 1 and {room}, or fewer --training.num-workers"
        )
    return wanted


class Says(tune.Callback):
    """Tells the person at the driver of each trial that ends.

    Args:
        total: number of trials.
        label: a line about the values of a trial.
    """

    def __init__(self, total: int, label: Callable[[Mapping[str, Any]], str]) -> None:
        self.total, self.label, self.ended, self.started = total, label, 0, time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called by Ray Tune."""
        last = trial.last_result or {}
        self._say(
            trial, f"{last['epoch']:g} epochs, score {last['best_score']:.4f}" if "best_score" in last else "done"
        )

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called by Ray Tune."""
        self._say(trial, f"FAILED: {failure_of(trial)}")

    def _say(self, trial: Trial, how: str) -> None:
        self.ended += 1
        minutes = (time.monotonic() - self.started) / 60
        print(f"{self.ended} of {self.total} after {minutes:.1f} min: {self.label(trial.config)}: {how}", flush=True)


def failure_of(trial: Trial) -> str:
    """One line about why a trial failed."""
    error: object = trial.get_pickled_error() or trial.get_error()
    if not error and trial.error_file and Path(trial.error_file).is_file():
        # Where it is told of at once, it does not lie with the experiment's state yet.
        error = Path(trial.error_file).read_text()
    return reason(error) if error else "its process ended"


def run_trials(
    call: Call,
    space: Mapping[str, Any],
    *,
    store: Store,
    name: str,
    at_once: int,
    label: Callable[[Mapping[str, Any]], str],
    total: int,
    config: tune.TuneConfig | None = None,
    go_on: bool = False,
    alone: bool = False,
) -> list[Ended]:
    """Run all trials to their end; one that fails does not end the others.

    Args:
        call: what a trial does with its values; it may report through `ray.tune.report`.
        space: Ray Tune's search space.
        store: folder of the search, in whose STATE Ray Tune keeps its own.
        name: of Ray Tune's experiment there.
        at_once: trials side by side.
        label: a line about the values of a trial.
        total: number of trials.
        config: of Ray Tune (samples, scheduler, searcher); None runs the space as it is.
        go_on: whether to go on with the experiment of this name where there is one.
        alone: the call trains in its own process (`train_alone`).

    Raises:
        KeyboardInterrupt: or SystemExit, where a signal ended the driver; trials are cut off, and their runs go on from
            their checkpoints.
    """
    connect()
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # On the node of the driver, which in a cluster may have no CPU to give.
    trainable = tune.with_resources(call, {"CPU": 1} if alone else {"node:__internal_head__": 0.001})
    state, filesystem = store / STATE, arrow_filesystem(store)
    base = state.root if filesystem is None else state.root.partition("://")[2]
    place: dict[str, Any] = {"storage_filesystem": filesystem} if filesystem else {}
    path = f"{base}/{name}"
    callbacks = [Says(total, label)]
    if go_on and tune.Tuner.can_restore(path, **place):
        tuner = tune.Tuner.restore(path, trainable, resume_unfinished=True, param_space=dict(space), **place)
        tuner._local_tuner._run_config.callbacks = callbacks
    else:
        config = config or tune.TuneConfig()
        config.max_concurrent_trials = at_once
        if isinstance(config.search_alg, BasicVariantGenerator):
            # Where the searcher is one of its own, Ray Tune ignores the line above, and would start all trials at once.
            config.search_alg.max_concurrent = at_once
        # A process whose trial was stopped early still waits for that trial's workers: Ray Tune fails to take it for another.
        config.reuse_actors = config.scheduler is None
        tuner = tune.Tuner(
            trainable,
            param_space=dict(space),
            tune_config=config,
            run_config=tune.RunConfig(name=name, storage_path=base, callbacks=callbacks, verbose=0, **place),
        )
    return [_ended(trial) for trial in tuner.fit()._experiment_analysis.trials]


def arrow_filesystem(store: Store) -> Any:
    """The store's file system as Ray wants it; None for local folders."""
    if store.local:
        return None
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store.fsspec))


def _ended(trial: Trial) -> Ended:
    return Ended(
        trial=trial.trial_id,
        values=dict(trial.config),
        last=dict(trial.last_result or {}),
        failure=failure_of(trial) if trial.status == Trial.ERROR else None,
        lost=trial.status == Trial.ERROR and not isinstance(trial.get_pickled_error(), RayTaskError),
    )
