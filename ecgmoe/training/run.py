"""The driver of one training: checks, statistics, the MLflow run, Ray Train, and the run folder.

STORAGE/NAME/config.json     configuration, data and code revision; a run name belongs to one of them (`identity`)
STORAGE/NAME/checkpoints/    the last two checkpoints and the best (`checkpoint_store`)
STORAGE/NAME/pretraining/    what comes before the training, where that is wanted (`pretraining`)
STORAGE/NAME/start/          the model that the training begins with, where that is not random (`start`)
STORAGE/NAME/faults/         stacks of ranks that hung, studies of batches whose loss was not finite
STORAGE/NAME/model/          the best model, ready to predict
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.train import (
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer

from ecgmoe import config as configuration
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.pipeline.layout import Operator, fits, say_who_waits
from ecgmoe.pipeline.nodes import alive_nodes, refuse_local
from ecgmoe.pipeline.prepared import PreparedData, split_rows
from ecgmoe.pipeline.ray_data import connect
from ecgmoe.pipeline.store import StorageError, Store
from ecgmoe.training import tracking
from ecgmoe.training.alone import can_be_alone, train_alone
from ecgmoe.training.checkpoint_store import CheckpointStore
from ecgmoe.training.faults import EndsWhatLasts
from ecgmoe.training.fit_statistics import training_statistics
from ecgmoe.training.identity import code_revision, environment, refuse_other_run, run_identity
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.monitor import start_monitor
from ecgmoe.training.plan import epoch_plan
from ecgmoe.training.pretrained import FOLDER as PRETRAINING
from ecgmoe.training.start import keep_start
from ecgmoe.training.supervise import supervised
from ecgmoe.training.tracking import ParentRun

WORKER_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Ray Train would print every line of a worker a second time, through its own log.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # torch warns of its own names each time that DeepSpeed uses them.
    "PYTHONWARNINGS": "ignore::FutureWarning",
    # A report that one rank never reaches would otherwise wait for ever.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",
}


def check_resources(training: configuration.TrainingConfig) -> None:
    """Refuse a layout that would wait for ever for workers that no node can hold; say where other jobs hold the room.

    Raises:
        ValueError: naming what is there and the option to change.
    """
    connect()
    kind = "GPU" if training.use_gpu else "CPU"
    # As Ray Train asks for them by default: no CPU beside a GPU.
    each = Operator(cpus=float(not training.use_gpu), gpus=float(training.use_gpu), actors=1)
    nodes = [node["Resources"] for node in alive_nodes()]
    needed = training.min_workers or training.num_workers
    there = max((n for n in range(needed + 1) if fits([replace(each, actors=n)] if n else [], nodes)), default=0)
    if there < needed:
        ways = [f"set --training.num-workers to at most {there}"] if there else []
        ways += ["--training.no-use-gpu to train on CPUs"] if training.use_gpu else []
        ways += [] if ways else ["start Ray with some (ray start --num-cpus N)"]
        raise ValueError(f"{needed} workers need {needed} {kind}s and this cluster has {there}: {', or '.join(ways)}")
    say_who_waits("training", [replace(each, cpus=needed * each.cpus, gpus=needed * each.gpus)])


def check_labels(data: PreparedData, config: configuration.RunConfig) -> None:
    """Refuse data without anything to learn or to validate on, before an hour of embedding.

    Raises:
        ValueError: naming the split that has no label of any task.
    """
    labels = data.labels()
    for split in ("train", "validation"):
        rows = labels.take(pa.array(split_rows(labels, split)))
        if all(rows[task.label].null_count == len(rows) for task in config.task_table()):
            raise ValueError(
                f"{data.store.root} has no label of {', '.join(config.tasks)} in its {split} split ({len(rows)} records): "
                "give labels when preparing (--index.csv for own records), other --tasks, or more records"
            )


def check_storage(storage: Store) -> None:
    """Refuse a local folder where workers on another node could not reach it."""
    refuse_local(storage=storage.root)


def train(
    config: configuration.RunConfig,
    *,
    data: str,
    features: dict[str, str],
    name: str,
    storage: str,
    parent: ParentRun | None = None,
    callbacks: Sequence[UserCallback] = (),
    alone: bool = False,
    shared: str | None = None,
) -> str:
    """Train a run to its end, from wherever it stands.

    Args:
        config: the run's configuration.
        data: prepared folder.
        features: feature key of each cached backbone, as `embed` returned it.
        name: of the run; the same name goes on where it stopped.
        storage: folder or URL that holds runs.
        parent: MLflow run of a search or a table that this run is part of; None makes a run of its own.
        callbacks: of Ray Train's controller, which gets {"score", "best_score", "epoch", "step"} after each epoch.
        alone: train in this process instead, where `can_be_alone` and nobody calls back: a failure is not tried again then.
        shared: folder in which runs of a table or search keep their pre-trainings for each other.

    Returns:
        The model folder, STORAGE/NAME/model.

    Raises:
        ValueError: a bad name, another configuration under this name, or a layout that this cluster cannot hold.
        ray.train.TrainingFailedError: training failed more often than `max_failures`.
        KeyboardInterrupt: SIGINT; the same call goes on from the last checkpoint.
    """
    if alone and (callbacks or not can_be_alone(config)):
        raise ValueError("only one worker without a GPU trains in this process, and calls nobody back: alone=False")
    prepared, root = PreparedData(data, features), Store(storage)
    run = root / name
    identity = run_identity(config, prepared)
    changed = refuse_other_run(run, identity)
    if run.exists("model/model.safetensors"):
        return run.path("model")
    if run.exists("checkpoints/checkpoint_manager_snapshot.json"):
        raise ValueError(
            f"{run.root} was begun by an earlier version, which kept other checkpoints: train under another --run"
        )
    if not alone:
        check_resources(config.training)
    check_storage(root)
    labels = prepared.labels()
    rows = split_rows(labels, "train")
    plan = epoch_plan(
        rows, rows, global_batch=config.training.global_batch, slots=config.training.slots, seed=0, epoch=0
    )
    start = keep_start(config, run)
    if not run.exists("config.json") or changed:
        run.write_json("config.json", {**identity, "code": code_revision()})
    if changed:
        print(f"{name} goes on with another layout: {'; '.join(changed)}", flush=True)
    statistics = training_statistics(prepared, labels, config)
    if start:
        statistics = start.scaling(statistics)
    uri = parent.uri if parent else tracking.default_uri(root.root)
    run_id = mlflow_run(run, uri, config, prepared, name, parent)
    print(
        f"training {name}: {len(rows):,} records, {len(plan.rows)} steps per epoch, {config.training.epochs} epochs, "
        f"{config.training.num_workers} workers, ZeRO {config.training.zero_stage}, MLflow {uri}",
        flush=True,
    )
    job = WorkerJob(
        config=to_dict(config),
        data=prepared.store.root,
        run=run.root,
        features=features,
        statistics=to_dict(statistics),
        tracking_uri=uri,
        mlflow_run_id=run_id,
        shared=shared,
    )
    if alone:
        try:
            train_alone(job)
        except Exception:
            clear_unfinished(run)
            raise
        return export(run)
    monitor = start_monitor()
    with tempfile.TemporaryDirectory(prefix="ecgmoe-ray-train-") as scratch:
        try:
            supervised(partial(fit, job, config.training, monitor, scratch, callbacks), monitor)
        except TrainingFailedError as error:
            clear_unfinished(run)
            if isinstance(error, ControllerError):
                # A worker's own, which no restart can mend, comes with its message.
                raise error.controller_failure from None
            raise
    return export(run)


def train_worker(values: dict[str, Any]) -> dict[str, Any]:
    """What Ray Train calls on every worker.

    DeepSpeed is imported here and not in the driver, which may be a machine without its accelerator.
    """
    from ecgmoe.training.link import RayTrain
    from ecgmoe.training.stages import run_worker
    from ecgmoe.training.watch import Watch

    # Ray Train sets the root logger to INFO, and then every rank tells of every checkpoint.
    logging.getLogger().setLevel(logging.WARNING)
    # The traceback of what ends a worker is wanted, where it is this program's fault.
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    job, monitor = WorkerJob(**values["job"]), values["monitor"]
    training = from_dict(configuration.RunConfig, job.config).training
    rank = ray.train.get_context().get_world_rank()
    if rank == 0:
        monitor.starts.remote(ray.train.get_context().get_world_size())
    with Watch(monitor, Store(job.run), rank, training.hang_timeout_s) as watch:
        try:
            return run_worker(job, watch, RayTrain())
        except (StorageError, FloatingPointError, MemoryError):
            # These say in one line what to do.
            logging.getLogger("ray.train").setLevel(logging.CRITICAL)
            raise


def fit(
    job: WorkerJob,
    training: configuration.TrainingConfig,
    monitor: Any,
    scratch: str,
    callbacks: Sequence[UserCallback] = (),
) -> Any:
    """Start the workers through Ray Train, and again after a failure; they go on from the checkpoints in the run folder.

    Ray's own checkpoints are not used: its list of them is one file that is overwritten in place, so that a full disk or a
    kill at the wrong moment loses the run. `scratch` only holds a marker of Ray's.
    """
    if len(alive_nodes()) == 1:
        # Nobody takes the only node away and leaves the driver.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    environment = dict(WORKER_ENVIRONMENT)
    if not training.use_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    fixed = training.min_workers in (0, training.num_workers)
    workers = training.num_workers if fixed else (training.min_workers, training.num_workers)
    if not fixed:
        # After a lost node Ray Train asks for as many as before for so long, before it takes fewer.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": asdict(job), "monitor": monitor},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=training.use_gpu),
        run_config=RunConfig(
            name=Path(job.run).name,
            storage_path=scratch,
            callbacks=[EndsWhatLasts(monitor, training.max_failures), *callbacks],
            failure_config=FailureConfig(max_failures=training.max_failures),
            worker_runtime_env={"env_vars": environment},
            # Its controller logs tracebacks of what `EndsWhatLasts` says in a line, and of a helper that ends late.
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
        # Later than the watch, which knows where the ranks stand.
        torch_config=TorchConfig(
            backend="nccl" if training.use_gpu else "gloo", timeout_s=int(2 * training.hang_timeout_s) + 1
        ),
    )
    return trainer.fit()


def clear_unfinished(run: Store) -> None:
    """Delete what workers were writing that are gone: it takes space that the next checkpoint needs."""
    for stage in (run, run / PRETRAINING):
        with contextlib.suppress(OSError):
            CheckpointStore(stage).clear_unfinished()


def export(run: Store) -> str:
    """Copy the model of the best checkpoint to STORAGE/NAME/model."""
    checkpoints = CheckpointStore(run)
    best = checkpoints.best()
    if best is None:
        raise StorageError(f"{run.root} holds no whole checkpoint: its files were deleted; train under another --run")
    source = checkpoints.store / best.name
    # The weights go last: their presence says that the run is finished.
    for name in ("config.json", "model.safetensors"):
        with run.writing(f"model/{name}") as target, source.reading(f"model/{name}") as file:
            shutil.copyfileobj(file, target)
    return run.path("model")


def mlflow_run(
    run: Store,
    uri: str,
    config: configuration.RunConfig,
    data: PreparedData,
    name: str,
    parent: ParentRun | None = None,
) -> str:
    """The id of this training's MLflow run, made on the first start, and anew where `uri` does not know it."""
    if run.exists("mlflow.json"):
        known = run.read_json("mlflow.json")
        if tracking.knows_run(uri, known["run_id"]):
            if known["tracking_uri"] != uri:
                run.write_json("mlflow.json", {**known, "tracking_uri": uri})
            return known["run_id"]
        print(
            f"{name}: MLflow at {uri} does not know this run, its curves go on in a new one; what there is so far was logged "
            f"to {known['tracking_uri']}",
            flush=True,
        )
    digests = {f"data.{key}": data.manifest[key] for key in ("dataset", "records_key", "labels_sha256", "records")}
    run_id = tracking.create_run(
        uri,
        name,
        {**to_dict(config), **digests, **{f"environment.{key}": value for key, value in environment().items()}},
        {"revision": code_revision()["revision"], "random_backbones": ",".join(config.random_backbones)},
        artifacts=f"{run.root.rpartition('/')[0]}/mlflow-artifacts",
        parent=parent,
    )
    run.write_json("mlflow.json", {"run_id": run_id, "tracking_uri": uri})
    return run_id
