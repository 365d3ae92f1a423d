"""The driver of one training: checks, statistics, the MLflow run, Ray Train, and the run folder.

STORAGE/NAME/config.json     configuration, data and code revision; a run name belongs to one of them (`identity`)
STORAGE/NAME/checkpoints/    Ray Train's own folder: the best and the last checkpoint
STORAGE/NAME/model/          the best model, ready to predict
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from ecgmoe import config as configuration
from ecgmoe.config_tools import to_dict
from ecgmoe.pipeline.prepared import PreparedData, split_rows
from ecgmoe.pipeline.ray_data import connect
from ecgmoe.pipeline.store import StorageError, Store
from ecgmoe.training import tracking
from ecgmoe.training.fit_statistics import training_statistics
from ecgmoe.training.identity import code_revision, environment, refuse_other_run, run_identity
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.plan import epoch_plan

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
    """Refuse a layout that would wait for ever for workers that no node can hold.

    Raises:
        ValueError: naming what is there and the option to change.
    """
    connect()
    kind = "GPU" if training.use_gpu else "CPU"
    there = int(ray.cluster_resources().get(kind, 0))
    needed = training.min_workers or training.num_workers
    if needed > there:
        hint = ", or --training.no-use-gpu to train on CPUs" if training.use_gpu else ""
        raise ValueError(
            f"{needed} workers need {needed} {kind}s and this cluster has {there}: set "
            f"--training.num-workers to at most {there}{hint}"
        )


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
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if storage.local and len(nodes) > 1 and not os.environ.get("ECGMOE_SHARED_MOUNT"):
        raise ValueError(
            f"{storage.root} is a local path and the cluster has {len(nodes)} nodes: give an object store "
            "(--storage s3://bucket/path), or, where that path is a mount shared by all nodes, set ECGMOE_SHARED_MOUNT=1"
        )


def train(config: configuration.RunConfig, *, data: str, features: dict[str, str], name: str, storage: str) -> str:
    """Train a run to its end, from wherever it stands.

    Args:
        config: the run's configuration.
        data: prepared folder.
        features: feature key of each cached backbone, as `embed` returned it.
        name: of the run; the same name goes on where it stopped.
        storage: folder or URL that holds runs.

    Returns:
        The model folder, STORAGE/NAME/model.

    Raises:
        ValueError: a bad name, another configuration under this name, or a layout that this cluster cannot hold.
        ray.train.TrainingFailedError: training failed more often than `max_failures`.
        KeyboardInterrupt: SIGINT; the same call goes on from the last checkpoint.
    """
    prepared, root = PreparedData(data, features), Store(storage)
    run = root / name
    identity = run_identity(config, prepared)
    changed = refuse_other_run(run, identity)
    if run.exists("model/model.safetensors"):
        return run.path("model")
    check_resources(config.training)
    check_storage(root)
    labels = prepared.labels()
    rows = split_rows(labels, "train")
    plan = epoch_plan(
        rows, rows, global_batch=config.training.global_batch, slots=config.training.slots, seed=0, epoch=0
    )
    if not run.exists("config.json") or changed:
        run.write_json("config.json", {**identity, "code": code_revision()})
    if changed:
        print(f"{name} goes on with another layout: {'; '.join(changed)}", flush=True)
    statistics = training_statistics(prepared, labels, config)
    uri = tracking.default_uri(root.root)
    run_id = mlflow_run(run, uri, config, prepared, name)
    print(
        f"training {name}: {len(rows):,} records, {len(plan.rows)} steps per epoch, {config.training.epochs} epochs, "
        f"{config.training.num_workers} workers, ZeRO {config.training.zero_stage}, MLflow {uri}",
        flush=True,
    )
    job = WorkerJob(
        config=to_dict(config),
        data=prepared.store.root,
        features=features,
        statistics=to_dict(statistics),
        tracking_uri=uri,
        mlflow_run_id=run_id,
    )
    try:
        result = trainer(job, config.training, run).fit()
    except SystemExit:
        # Ray Train ends the workers in order on SIGINT and then leaves the process.
        raise KeyboardInterrupt from None
    best = result.get_best_checkpoint("score", "max") or result.checkpoint
    if best is None:
        raise StorageError(f"{run.root} holds no checkpoint: its files were deleted; train under another --run")
    return export(best, run)


def train_worker(values: dict[str, Any]) -> None:
    """What Ray Train calls on every worker.

    DeepSpeed is imported here and not in the driver, which may be a machine without its accelerator.
    """
    from ecgmoe.training.worker import Worker

    # Ray Train sets the root logger to INFO, and then every rank tells of every checkpoint.
    logging.getLogger().setLevel(logging.WARNING)
    started = time.perf_counter()
    worker = Worker(WorkerJob(**values))
    if worker.rank == 0:
        print(f"workers ready after {time.perf_counter() - started:.1f} s", flush=True)
    worker.run()


def trainer(job: WorkerJob, training: configuration.TrainingConfig, run: Store) -> TorchTrainer:
    """Ray Train for this job; the run folder is what it resumes from."""
    environment = dict(WORKER_ENVIRONMENT)
    if not training.use_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    fixed = training.min_workers in (0, training.num_workers)
    workers = training.num_workers if fixed else (training.min_workers, training.num_workers)
    return TorchTrainer(
        train_worker,
        train_loop_config=asdict(job),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=training.use_gpu),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=run.root,
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="score", checkpoint_score_order="max"
            ),
            failure_config=FailureConfig(max_failures=training.max_failures),
            worker_runtime_env={"env_vars": environment},
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
        torch_config=TorchConfig(backend="nccl" if training.use_gpu else "gloo"),
    )


def export(checkpoint: Any, run: Store) -> str:
    """Copy the model of the best checkpoint to STORAGE/NAME/model."""
    with checkpoint.as_directory() as folder:
        source = Path(folder) / "model"
        # The weights go last: their presence says that the run is finished.
        for name in ("config.json", "model.safetensors"):
            with run.writing(f"model/{name}") as target, (source / name).open("rb") as file:
                shutil.copyfileobj(file, target)
    return run.path("model")


def mlflow_run(run: Store, uri: str, config: configuration.RunConfig, data: PreparedData, name: str) -> str:
    """The id of this training's MLflow run, made on the first start."""
    if run.exists("mlflow.json"):
        return run.read_json("mlflow.json")["run_id"]
    digests = {f"data.{key}": data.manifest[key] for key in ("dataset", "records_key", "labels_sha256", "records")}
    run_id = tracking.create_run(
        uri,
        name,
        {**to_dict(config), **digests, **{f"environment.{key}": value for key, value in environment().items()}},
        {"revision": code_revision()["revision"], "random_backbones": ",".join(config.random_backbones)},
        artifacts=run.path("../mlflow-artifacts") if not run.local else str(Path(run.root).parent / "mlflow-artifacts"),
    )
    run.write_json("mlflow.json", {"run_id": run_id, "tracking_uri": uri})
    return run_id
