"""The training loop of one rank, top to bottom."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict
from ecgmoe.evaluation.metrics import score
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.folder import model_config, save_model
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.pipeline.prepared import PreparedData, row_groups, split_rows
from ecgmoe.training import checkpoint
from ecgmoe.training.build import build_backbones, build_model
from ecgmoe.training.checkpoint import Position
from ecgmoe.training.engine import initialise
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.loader import BatchReader
from ecgmoe.training.memory_report import PROBED, log_memory, plan_memory
from ecgmoe.training.plan import EpochPlan, GlobalBatch, epoch_plan
from ecgmoe.training.progress import Interval, Progress
from ecgmoe.training.routing import RoutingLoad
from ecgmoe.training.step import TrainingStep
from ecgmoe.training.tracking import Tracker
from ecgmoe.training.validation import validate

UNSCORED = -1e9
"""Score of a checkpoint inside an epoch: never the best one, kept only while it is the last."""


class Worker:
    """One rank: its data, its engine, its place in the run."""

    def __init__(self, job: WorkerJob) -> None:
        self.job, self.config = job, from_dict(RunConfig, job.config)
        self.training, self.tasks = self.config.training, self.config.task_table()
        self.statistics = from_dict(TrainingStatistics, job.statistics)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        data = PreparedData(job.data, job.features)
        self.labels = data.labels()
        self.rows, self.groups = split_rows(self.labels, "train"), row_groups(self.labels)
        self.reader = BatchReader(data, self.labels, self.tasks, 2 * self.training.slots // self.world)
        self.steps_per_epoch = len(self.rows) // self.training.global_batch
        self.total_steps = self.steps_per_epoch * self.training.epochs
        self.backbones = build_backbones(self.config)
        model = build_model(self.config, self.statistics, self.backbones)
        probe = self.rows[:PROBED]
        # Before the engine takes the weights apart.
        self.memory = plan_memory(model, self.training, self.reader.read(probe)) if self.rank == 0 else None
        self.engine = initialise(model, self.training, self.total_steps)
        self.device = self.engine.device
        shared = self.config.model.routing_is_shared
        gates = ["all_tasks"] if shared else [task.name for task in self.tasks]
        self.load = RoutingLoad(gates, self.config.model.expert_names, self.device)
        self.step = TrainingStep(self.engine, self.config, self.statistics, self.reader, self.load)
        self.tracker = Tracker(job.tracking_uri, job.mlflow_run_id) if self.rank == 0 else None
        # Dropout differs between ranks; a resumed run takes its random state from the checkpoint instead.
        torch.manual_seed(self.training.seed * 100_003 + self.rank)

    def run(self) -> None:
        """Train from where the last checkpoint stands to the last epoch, validating and saving after each.

        Without any epoch the untrained model is validated and saved.
        """
        position, interval = self.resume()
        log_memory(self.tracker, self.memory)
        progress = Progress(self.training, self.total_steps, self.rank, self.tracker, self.load)
        if interval:
            progress.resume(interval)
        for epoch in range(position.epoch, self.training.epochs):
            plan = self.plan(epoch)
            progress.epoch_starts(epoch, plan)
            for whole, batch in progress.waiting_for(self.batches(plan, position.batch)):
                losses = self.step(batch, whole)
                position.step, position.batch = position.step + 1, position.batch + 1
                progress.step(epoch, position.step, losses, self.engine)
                every = self.training.checkpoint_every
                # The last step of an epoch always has one, so that an interrupted validation costs no step.
                if every and (position.step % every == 0 or position.batch == self.steps_per_epoch):
                    self.save(position, {"score": UNSCORED}, progress.interval())
                    progress.goes_on()
            metrics = validate(self.engine, self.reader, self.labels, self.tasks, self.training)
            current = score(metrics)
            position.epoch, position.batch = epoch + 1, 0
            position.best_score = current if position.best_score is None else max(current, position.best_score)
            progress.epoch_ends(epoch, position.step, metrics, current, best=current == position.best_score)
            self.save(position, {"score": current}, progress.interval())
            progress.goes_on()
        if not self.training.epochs:
            untrained = validate(self.engine, self.reader, self.labels, self.tasks, self.training)
            self.save(position, {"score": score(untrained)}, progress.interval())

    def plan(self, epoch: int) -> EpochPlan:
        """The order of this epoch, the same on every rank."""
        return epoch_plan(
            self.rows,
            self.groups[self.rows],
            global_batch=self.training.global_batch,
            slots=self.training.slots,
            seed=self.training.seed,
            epoch=epoch,
        )

    def batches(self, plan: EpochPlan, start: int) -> Iterator[tuple[GlobalBatch, ECGBatch]]:
        """Every global batch from `start` on with this rank's share of it, read ahead."""
        wholes = [plan.batch(index, self.world) for index in range(start, len(plan.rows))]
        shares = (whole.share(self.rank) for whole in wholes)
        return zip(wholes, self.reader.ahead(shares, self.training.read_ahead), strict=True)

    def resume(self) -> tuple[Position, Interval | None]:
        """Go on from the last committed checkpoint, or start at the beginning."""
        latest = ray.train.get_checkpoint()
        if latest is None:
            return Position(), None
        with latest.as_directory() as folder:
            position, interval = checkpoint.load(self.engine, Path(folder), self.training)
        if self.rank == 0:
            print(f"resuming at epoch {position.epoch + 1}, step {position.step:,} of {self.total_steps:,}", flush=True)
        return position, interval

    def save(self, position: Position, metrics: dict[str, float], interval: Interval) -> None:
        """Every rank writes its part; Ray Train shows the checkpoint when all are there."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            checkpoint.save(self.engine, folder, position, self.training, interval)
            state = checkpoint.full_state(self.engine)
            if self.rank == 0:
                cached = {each.name: self.backbones[each.name] for each in self.config.cached}
                save_model(folder / "model", state, self.model_config(), cached)
            metrics = {**metrics, "epoch": float(position.epoch), "step": float(position.step)}
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(temporary))

    def model_config(self) -> dict[str, Any]:
        """config.json of the model folder."""
        return model_config(
            self.config.model,
            tasks=tuple(task.name for task in self.tasks),
            taxonomy=self.config.taxonomy,
            backbones=self.backbones,
            statistics=self.statistics,
        )
