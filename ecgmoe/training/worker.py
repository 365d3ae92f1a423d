"""The training loop of one rank, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict
from ecgmoe.evaluation.metrics import score
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.folder import WEIGHTS, model_config, save_model
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.pipeline.prepared import PreparedData, row_groups, split_rows
from ecgmoe.pipeline.store import Store
from ecgmoe.training import checkpoint, not_finite
from ecgmoe.training.agreement import Agreement
from ecgmoe.training.augment import augmented
from ecgmoe.training.average import WeightAverage
from ecgmoe.training.backbone_cost import relative_costs
from ecgmoe.training.build import build_backbones, build_model
from ecgmoe.training.checkpoint import Position
from ecgmoe.training.checkpoint_store import CheckpointStore
from ecgmoe.training.engine import initialise
from ecgmoe.training.fit_statistics import trained_on
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.link import Link
from ecgmoe.training.loader import THREADS, BatchReader
from ecgmoe.training.memory_report import PROBED, log_memory, plan_memory
from ecgmoe.training.plan import EpochPlan, GlobalBatch, epoch_plan
from ecgmoe.training.pretrained import load_pretrained
from ecgmoe.training.progress import Interval, Progress
from ecgmoe.training.routing import RoutingLoad
from ecgmoe.training.start import load_start, start_of
from ecgmoe.training.step import Step, TrainingStep
from ecgmoe.training.tracking import Tracker
from ecgmoe.training.validation import validate
from ecgmoe.training.watch import Watch


class Worker:
    """One rank: its data, its engine, its place in the run.

    What it is trained for is in a few methods, which `pretraining.Pretraining` has others of.

    Args:
        job: what the driver hands over.
        watch: of this rank.
        link: of this rank with whoever started it.
    """

    prefix = ""
    """Of the names of its curves."""
    learning_rate_option = "--training.learning-rate"

    def __init__(self, job: WorkerJob, watch: Watch, link: Link) -> None:
        self.job, self.watch, self.link, self.config = job, watch, link, from_dict(RunConfig, job.config)
        self.folder = Store(job.run)
        self.name = self.folder.root.rpartition("/")[2]
        self.checkpoints, self.left_out = CheckpointStore(self.folder), not_finite.left_out(self.folder)
        self.training, self.tasks = self.config.training, self.config.task_table()
        self.statistics = from_dict(TrainingStatistics, job.statistics)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        data = PreparedData(job.data, job.features)
        self.labels = data.labels()
        self.rows, self.groups = split_rows(self.labels, "train"), row_groups(self.labels)
        self.trained_on = trained_on(data, self.labels, self.config)
        self.reader = BatchReader(data, self.labels, self.tasks, 2 * self.training.slots // self.world + THREADS)
        self.steps_per_epoch = len(self.rows) // self.training.global_batch
        self.total_steps = self.steps_per_epoch * self.training.epochs
        model = self.build()
        # Before the engine takes the weights apart.
        self.memory = plan_memory(model, self.training, self.probe()) if self.rank == 0 else None
        self.engine = initialise(model, self.training, self.total_steps)
        # Every pass is a sign of progress, in training and in validation.
        self.engine.module.register_forward_hook(lambda *_: watch.progress())
        self.average = WeightAverage(self.engine, self.training.weight_average)
        self.device = self.engine.device
        self.load, self.step = self.objective()
        self.agreement, self.saved_for_preemption = Agreement(), False
        self.tracker = Tracker(job.tracking_uri, job.mlflow_run_id, self.run_folder) if self.rank == 0 else None
        # Dropout differs between ranks; a resumed run takes its random state from the checkpoint instead.
        torch.manual_seed(self.training.seed * 100_003 + self.rank)

    @property
    def run_folder(self) -> Store:
        """Where numbers wait that MLflow does not take."""
        return self.folder

    def build(self) -> nn.Module:
        """The model with the weights that the training begins with."""
        self.backbones = build_backbones(self.config)
        if self.config.pretraining.epochs:
            load_pretrained(self.backbones, self.folder)
        model = build_model(self.config, self.statistics, self.backbones)
        if self.config.start_from is not None:
            load_start(model, self.folder)
            start = start_of(self.folder)
            self.trained_on = replace(self.trained_on, before=start.trained_on)
            for name, backbone in self.backbones.items():
                backbone.provenance = start.provenance[name]
        weighs_costs = self.config.loss.backbone_cost_weight > 0
        self.costs = relative_costs(self.backbones[name] for name in model.choosable) if weighs_costs else None
        return model

    def probe(self) -> ECGBatch:
        """Some records, to count activations on."""
        return self.reader.read(self.rows[:PROBED])

    def objective(self) -> tuple[RoutingLoad, Step]:
        """Where the use of the experts is counted, and what makes a step of the engine."""
        shared = self.config.model.routing_is_shared
        gates = ["all_tasks"] if shared else [task.name for task in self.tasks]
        load = RoutingLoad(gates, self.config.model.expert_names, self.device)
        return load, TrainingStep(self.engine, self.config, self.statistics, self.reader, load, self.costs)

    def run(self) -> dict[str, Any]:
        """Train from where the last checkpoint stands to the last epoch, validating and saving after each.

        Without any epoch the untrained model is validated and saved.

        Returns:
            "stopped_at": the step at which it saved and left because it was asked to; None at the end of training.

        Raises:
            NotFiniteError: a loss or the gradient is not finite.
            BatchLeftOut: it is not, and the run may go on from its last checkpoint without that batch.
        """
        position, interval = self.resume()
        log_memory(self.tracker, self.memory, self.prefix)
        progress = Progress(
            self.training,
            self.total_steps,
            self.rank,
            self.tracker,
            self.load,
            self.reader,
            run=self.name,
            prefix=self.prefix,
        )
        if interval:
            progress.resume(interval)
        # A wish that came before the first step.
        self.post(position, None, {})
        if self.agreed():
            return {"stopped_at": position.step}
        for epoch in range(position.epoch, self.training.epochs):
            plan = self.plan(epoch)
            progress.epoch_starts(epoch, plan)
            for whole, batch in progress.waiting_for(self.batches(plan, epoch, position.batch)):
                self.watch.progress(f"step {position.step + 1}")
                if self.is_left_out(position):
                    position.step, position.batch = position.step + 1, position.batch + 1
                    continue
                losses = self.step(batch, whole)
                self.average.update(self.engine.global_steps)
                # What the ranks agreed on after the step before, of which only now is the answer waited for.
                stop = self.agreed()
                self.post(position, whole, losses)
                position.step, position.batch = position.step + 1, position.batch + 1
                progress.step(epoch, position.step, losses, self.engine)
                every = self.training.checkpoint_every
                # The last step of an epoch always has one, so that an interrupted validation costs no step.
                due = every and (position.step % every == 0 or position.batch == self.steps_per_epoch)
                if due or stop or self.is_preempted(position):
                    # Nothing is saved that is not known to be finite.
                    stop = self.agreed() or stop
                    self.save(position, None, progress)
                    if stop:
                        return {"stopped_at": position.step}
            if self.agreed():
                # The validation comes with the next start.
                self.save(position, None, progress)
                return {"stopped_at": position.step}
            self.watch.progress(f"validation of epoch {epoch + 1}")
            metrics = self.validate()
            current = self.score(metrics)
            position.epoch, position.batch = epoch + 1, 0
            position.best_score = current if position.best_score is None else max(current, position.best_score)
            progress.epoch_ends(epoch, position.step, metrics, current, best=current == position.best_score)
            self.save(position, current, progress)
        if not self.training.epochs:
            self.save(position, self.score(self.validate()), progress)
        return {"stopped_at": None}

    def validate(self) -> dict[str, Any]:
        """Metrics of the validation split by the mean of the weights; every rank must call it."""
        with self.average.shown():
            return validate(self.engine, self.reader, self.labels, self.tasks, self.training)

    def score(self, metrics: dict[str, Any]) -> float:
        """By which the best epoch is chosen, higher is better."""
        return score(metrics)

    def post(self, position: Position, whole: GlobalBatch | None, losses: dict[str, Tensor]) -> None:
        """Tell the other ranks of the step that begins at `position`."""
        norm = self.engine.get_global_grad_norm() if whole is not None else None
        place = position.epoch, position.batch, position.step + 1, whole
        losses = losses or {"none": torch.zeros((), device=self.device)}
        self.agreement.post(place, stop=self.watch.wish is not None, losses=losses, norm=norm)

    def agreed(self) -> bool:
        """Whether all ranks are to stop, after the step that was posted last; every rank must call it.

        Raises:
            NotFiniteError: or BatchLeftOut, where that step's losses are not finite.
        """
        verdict = self.agreement.take()
        if verdict is None:
            return False
        if verdict.not_finite:
            epoch, batch, step, whole = verdict.place
            studies = self.reader.study_id[whole.rows].tolist()
            given_up = not_finite.Batch(
                epoch=epoch, batch=batch, step=step, not_finite=list(verdict.not_finite), study_ids=studies
            )
            allowed = self.training.skip_not_finite
            not_finite.give_up(self.folder, given_up, self.left_out, allowed, self.learning_rate_option)
        return verdict.stop

    def is_preempted(self, position: Position) -> bool:
        """Whether a checkpoint is due because Ray says that a node will be taken away; once, asked when logging.

        The run goes on until the node is gone: then Ray Train starts the workers anew.
        """
        if self.saved_for_preemption or position.step % self.training.log_every:
            return False
        ranks = self.link.preempted_ranks()
        if ranks is None:
            return False
        self.saved_for_preemption = True
        if self.rank == 0:
            print(f"PRE-EMPTION of the nodes of ranks {ranks}: saving a checkpoint", flush=True)
        return True

    def is_left_out(self, position: Position) -> bool:
        """Whether the run leaves out the batch at `position`."""
        return any((each.epoch, each.batch) == (position.epoch, position.batch) for each in self.left_out)

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

    def batches(self, plan: EpochPlan, epoch: int, start: int) -> Iterator[tuple[GlobalBatch, ECGBatch]]:
        """Every global batch from `start` on with this rank's share of it, read ahead and augmented."""
        wholes = [plan.batch(index, self.world) for index in range(start, len(plan.rows))]
        shares = (whole.share(self.rank) for whole in wholes)
        change = partial(self.changed, epoch=epoch)
        return zip(wholes, self.reader.ahead(shares, self.training.read_ahead, change), strict=True)

    def changed(self, batch: ECGBatch, epoch: int) -> ECGBatch:
        """A batch as it is trained on in an epoch."""
        return augmented(batch, self.training.augmentation, seed=self.training.seed, epoch=epoch)

    def resume(self) -> tuple[Position, Interval | None]:
        """Go on from the last whole checkpoint, or start at the beginning."""
        saved = self.checkpoints.last_whole()
        if saved is None:
            return Position(), None
        with self.checkpoints.opened(saved) as folder:
            position, interval = checkpoint.load(self.engine, folder, self.training)
            self.average.load(folder / "model" / WEIGHTS)
        if self.rank == 0:
            print(f"resuming at epoch {position.epoch + 1}, step {position.step:,} of {self.total_steps:,}", flush=True)
        return position, interval

    def save(self, position: Position, score: float | None, progress: Progress) -> None:
        """Commit a checkpoint, and tell of a validated one. Every rank must call it."""
        self.watch.progress(f"checkpoint at step {position.step}")
        interval, started = progress.interval(), time.perf_counter()

        def fill(folder: Path) -> None:
            checkpoint.save(self.engine, folder, position, self.training, interval)
            with self.average.shown():
                state = checkpoint.full_state(self.engine)
            if self.rank == 0:
                self.write_model(folder / "model", state)

        self.checkpoints.write(fill, step=position.step, epoch=position.epoch, score=score)
        if self.tracker:
            # The steps up to here are not made again.
            self.tracker.keep()
        if score is not None:
            best = score if position.best_score is None else position.best_score
            report = {"score": score, "best_score": best, "epoch": position.epoch, "step": position.step}
            self.report({name: float(value) for name, value in report.items()})
        self.watch.progress()
        progress.saved(time.perf_counter() - started)
        progress.goes_on()

    def report(self, values: dict[str, float]) -> None:
        """Tell whoever started the run of an epoch."""
        self.link.report(values)

    def write_model(self, folder: Path, state: dict[str, Tensor]) -> None:
        """The model of a checkpoint, from all of its weights."""
        cached = {each.name: self.backbones[each.name] for each in self.config.cached}
        save_model(folder, state, self.model_config(), cached)

    def model_config(self) -> dict[str, Any]:
        """config.json of the model folder."""
        return model_config(
            self.config.model,
            tasks=tuple(task.name for task in self.tasks),
            taxonomy=self.config.taxonomy,
            backbones=self.backbones,
            statistics=self.statistics,
            trained_on=self.trained_on,
        )
