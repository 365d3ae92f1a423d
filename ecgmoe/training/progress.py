"""What a person reads while a run trains, and what MLflow keeps of it."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor

from ecgmoe import metrics
from ecgmoe.readable import clock
from ecgmoe.training.collectives import sum_over_ranks
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.loader import BatchReader
from ecgmoe.training.plan import EpochPlan
from ecgmoe.training.routing import RoutingLoad
from ecgmoe.training.tracking import Tracker
from ecgmoe.training.waits import WaitWarning, waits_of_ranks

T = TypeVar("T")


class Interval(TypedDict):
    """What one rank has summed up since the last logged step: it travels with a checkpoint, so that no step is lost.

    Attributes:
        losses: sum of this rank's shares of each loss.
        load: sum of the gates, as `RoutingLoad` keeps it.
        steps: optimiser steps in these sums.
        seconds: that they took.
        waited: seconds of these in which the training step waited for data.
        dead: experts that the alarm was raised for.
    """

    losses: dict[str, Tensor]
    load: Tensor
    steps: int
    seconds: float
    waited: float
    dead: list[str]


class Progress:
    """Sums the losses and the use of the experts over an interval, then prints and logs them (rank 0).

    Args:
        config: how often, among others.
        total_steps: of the whole run.
        rank: of this process.
        tracker: where rank 0 logs.
        load: the use of the experts.
        reader: whose time is told where steps wait for data; None tells of none.
        run: its name, for metrics.
        prefix: of the names of the curves.
    """

    def __init__(
        self,
        config: TrainingConfig,
        total_steps: int,
        rank: int,
        tracker: Tracker | None,
        load: RoutingLoad,
        reader: BatchReader | None = None,
        run: str = "",
        prefix: str = "",
    ) -> None:
        self.prefix = prefix
        self.reader, self.warning = reader, WaitWarning(reader, config.read_ahead) if reader else None
        self.run, self.load, self.dead = run, load, set[str]()
        self.config, self.total_steps, self.rank, self.tracker = config, total_steps, rank, tracker
        self.losses: dict[str, Tensor] = {}
        self.steps, self.started = 0, time.perf_counter()
        self.last_step, self.dropped, self.waited = self.started, 0, 0.0

    def interval(self) -> Interval:
        """What is summed up since the last logged step."""
        return {
            "losses": {name: value.cpu() for name, value in self.losses.items()},
            "load": self.load.total.cpu(),
            "steps": self.steps,
            "seconds": self.last_step - self.started,
            "waited": self.waited,
            "dead": sorted(self.dead),
        }

    def resume(self, interval: Interval) -> None:
        """Go on with the sums of a checkpoint."""
        if self.rank == 0:
            metrics.add("training_resumed", 1, run=self.run)
        device = self.load.total.device
        self.losses = {name: value.to(device) for name, value in interval["losses"].items()}
        self.load.total = interval["load"].to(device)
        self.steps, self.dead = interval["steps"], set(interval["dead"])
        self.started, self.waited = self.last_step - interval["seconds"], interval["waited"]

    def waiting_for(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with the time counted that the training step waits for each."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def epoch_starts(self, epoch: int, plan: EpochPlan) -> None:
        """Say how many records the epoch leaves out."""
        self.dropped = plan.dropped
        if self.rank == 0 and plan.dropped and epoch == 0:
            print(
                f"{plan.dropped} records of the last short batch are left out of each epoch, others each time",
                flush=True,
            )

    def step(self, epoch: int, step: int, losses: Mapping[str, Tensor], engine: Any) -> None:
        """Count one optimiser step."""
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, torch.zeros_like(value)) + value
        self.steps += 1
        self.last_step = time.perf_counter()
        if step % self.config.log_every and step != self.total_steps:
            return
        summed = sum_over_ranks(torch.stack(list(self.losses.values())))
        load = self.load.take()
        means = dict(zip(self.losses, (summed / self.steps).tolist(), strict=True))
        seconds = (self.last_step - self.started) / self.steps
        rate, left = self.config.global_batch / seconds, (self.total_steps - step) * seconds
        self._tell_of_waits(epoch, self.steps * seconds, summed.device)
        metrics.put("training_memory_bytes", peak_memory(), run=self.run, rank=self.rank)
        if self.rank == 0 and self.tracker:
            parts = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
            print(
                f"epoch {epoch + 1}/{self.config.epochs}  step {step:,}/{self.total_steps:,}  {parts}  "
                f"{rate:,.0f} records/s  {clock(left)} left",
                flush=True,
            )
            logged = {f"train/loss_{name}": value for name, value in means.items()}
            logged |= {
                "train/learning_rate": engine.get_lr()[0],
                "train/records_per_s": rate,
                "train/epoch": epoch + 1,
                "train/gradient_norm": engine.get_global_grad_norm(),
                "train/data_wait_share": self.waited / (self.steps * seconds),
                "train/memory_gb": peak_memory() / 1e9,
            }
            self._log(logged | self.load.metrics(load), step, series="train/epoch")
            dead = set(self.load.dead(load))
            self._alarm(dead)
            for name, value in means.items():
                metrics.put("training_loss", value, run=self.run, task=name)
            for name, number in {
                "step": step,
                "steps_to_do": self.total_steps - step,
                "epoch": epoch + 1,
                "records_per_second": rate,
                "gradient_norm": logged["train/gradient_norm"],
                "dead_experts": len(dead),
            }.items():
                metrics.put(f"training_{name}", number, run=self.run)
        self.losses, self.steps, self.started, self.waited = {}, 0, self.last_step, 0.0

    def _log(self, values: Mapping[str, float], step: int, series: str) -> None:
        if self.tracker:
            named = {f"{self.prefix}{name}": value for name, value in values.items()}
            self.tracker.log(named, step, series=f"{self.prefix}{series}")

    def _tell_of_waits(self, epoch: int, seconds: float, device: torch.device) -> None:
        """Measure and judge the waits for data in an interval of so many seconds; every rank must call it."""
        share = self.waited / seconds
        metrics.put("training_data_wait_share", share, run=self.run, rank=self.rank)
        if self.reader and self.warning:
            waits = waits_of_ranks(self.waited, seconds, self.reader.clock.take(), self.reader.stages, device)
            if self.rank == 0:
                # All ranks wait for the one that waits for its data.
                self.warning.check(epoch, max(waits, key=lambda each: each.share))

    def saved(self, seconds: float) -> None:
        """A checkpoint took this rank so long."""
        metrics.put("training_checkpoint_seconds", seconds, run=self.run, rank=self.rank)

    def _alarm(self, dead: set[str]) -> None:
        """Say once when an expert falls idle."""
        if new := sorted(dead - self.dead):
            print(f"DEAD EXPERT {', '.join(new)}: no task gives it 1 % of its weight any more", flush=True)
        self.dead = dead

    def epoch_ends(self, epoch: int, step: int, found: Mapping[str, Any], score: float, *, best: bool) -> None:
        """Print and log the validation metrics."""
        if self.reader:
            # What validation read is no part of a step.
            self.reader.clock.take()
        if self.rank == 0 and self.tracker:
            main = {name: MAIN_METRIC.get(name, "mae") for name in found["tasks"]}
            shown = {name: values[main[name]] for name, values in found["tasks"].items()}
            text = "  ".join(f"{name} {main[name]} {value:.3f}" for name, value in shown.items() if value is not None)
            print(
                f"epoch {epoch + 1}/{self.config.epochs}  validation: {text}  score {score:.4f}{' (best)' if best else ''}",
                flush=True,
            )
            flat = {
                f"validation/{name}_{key}": value
                for name, values in found["tasks"].items()
                for key, value in values.items()
                if isinstance(value, float)
            }
            flat |= {"validation/score": score, "train/dropped_records": float(self.dropped)}
            self._log(flat, step, series="validation/score")
            metrics.put("training_validation_score", score, run=self.run)

    def goes_on(self) -> None:
        """Leave what was done since the last step (validation, a checkpoint) out of the rate."""
        gone = time.perf_counter() - self.last_step
        # Both, so that calling it twice before the next step counts nothing twice.
        self.started, self.last_step = self.started + gone, self.last_step + gone


def rest(run: str) -> None:
    """No alert any more about a run that ended, in a process that lives on and would tell its last values for as long."""
    metrics.put("training_data_wait_share", 0, run=run, rank=0)
    metrics.put("training_dead_experts", 0, run=run)
    metrics.put("training_steps_to_do", 0, run=run)


def peak_memory() -> int:
    """Most bytes that this process has held: of its GPU where it has one, else of main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # Linux counts in KiB.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


MAIN_METRIC = {"rr": "mae", "age": "mae", "sex": "auroc", "potassium": "auroc", "arrhythmia": "f1_macro"}
