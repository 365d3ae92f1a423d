"""Masked reconstruction before the training of a run: the same loop, data, engine and checkpoints, another objective.

STORAGE/NAME/pretraining/checkpoints/...          while it lasts
STORAGE/NAME/pretraining/backbones.safetensors    its result (`pretrained`)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save, save_file
from torch import Tensor, nn

from ecgmoe.backbones.registry import build
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.folder import WEIGHTS as MODEL
from ecgmoe.model.reconstruction import MaskedReconstruction, hide
from ecgmoe.pipeline.prepared import PreparedData, split_rows
from ecgmoe.pipeline.store import Store
from ecgmoe.training import checkpoint
from ecgmoe.training.collectives import gather_objects, sum_over_ranks
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.link import Link
from ecgmoe.training.plan import GlobalBatch
from ecgmoe.training.pretrained import FOLDER, WEIGHTS, SharedPretraining, training_of
from ecgmoe.training.routing import RoutingLoad
from ecgmoe.training.step import Step, autocast
from ecgmoe.training.watch import Watch
from ecgmoe.training.worker import Worker


def is_due(job: WorkerJob) -> bool:
    """Whether a run has a pre-training that nobody has done; every rank must call it, and what rank 0 sees counts."""
    if not from_dict(RunConfig, job.config).pretraining.epochs:
        return False
    run, shared = Store(job.run), shared_by(job)
    if shared and dist.get_rank() == 0:
        shared.exchange(run)
    return bool(gather_objects(not run.exists(WEIGHTS))[0])


def shared_by(job: WorkerJob) -> SharedPretraining | None:
    """Where other runs find its pre-training, and it theirs."""
    if job.shared is None:
        return None
    return SharedPretraining(Store(job.shared), from_dict(RunConfig, job.config), PreparedData(job.data))


def clear(job: WorkerJob) -> None:
    """Delete the checkpoints of a pre-training that is done: they take space that the training's need."""
    if dist.get_rank() == 0:
        (Store(job.run) / FOLDER).remove("checkpoints")


class Pretraining(Worker):
    """One rank of a pre-training.

    Args:
        job: of the run.
        watch: of this rank.
        link: of this rank with whoever started it.
    """

    prefix = f"{FOLDER}/"
    learning_rate_option = "--pretraining.learning-rate"

    def __init__(self, job: WorkerJob, watch: Watch, link: Link) -> None:
        config = from_dict(RunConfig, job.config)
        self.wanted, self.result, self.shared = config.pretraining.backbones, Store(job.run), shared_by(job)
        own = to_dict(replace(config, training=training_of(config)))
        # Cached features are of no use here.
        super().__init__(replace(job, config=own, run=f"{job.run}/{FOLDER}", features={}), watch, link)
        self.name = self.result.root.rpartition("/")[2]

    @property
    def run_folder(self) -> Store:
        """That of the whole run."""
        return self.result

    def build(self) -> nn.Module:
        """The encoders as they are initialised, with decoders."""
        self.backbones = {each.name: build(each) for each in self.config.backbones if each.name in self.wanted}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.training.seed)
            return MaskedReconstruction(self.backbones)

    def probe(self) -> ECGBatch:
        """Some records, to count activations on."""
        return self.changed(super().probe(), epoch=0)

    def objective(self) -> tuple[RoutingLoad, Step]:
        """There are no experts to count."""
        return RoutingLoad((), (), self.device), MaskedStep(self.engine, self.training)

    def changed(self, batch: ECGBatch, epoch: int) -> ECGBatch:
        """With what is to be filled in."""
        return hide(batch, seed=self.training.seed, epoch=epoch)

    def validate(self) -> dict[str, Any]:
        """Mean error of each encoder over the validation split, where always the same is hidden; every rank must call it."""
        rows, size = split_rows(self.labels, "validation"), self.training.global_batch // self.training.num_workers
        # Every rank makes as many passes, as ZeRO 3 wants it; what only fills a batch up counts nothing.
        passes = max(1, -(-len(rows) // (self.world * size)))
        padded = np.resize(rows, passes * self.world * size).reshape(self.world, passes, size)[self.rank]
        counts = (np.arange(passes * self.world * size) < len(rows)).reshape(self.world, passes, size)[self.rank]
        sums = {name: torch.zeros((), device=self.device) for name in self.backbones}
        self.engine.eval()
        with torch.no_grad():
            batches = self.reader.ahead(padded, self.training.read_ahead, lambda batch: self.changed(batch, epoch=0))
            for batch, counted in zip(batches, counts, strict=True):
                errors = self.engine(batch.to(self.device))
                for name, error in errors.items():
                    sums[name] += error[torch.from_numpy(counted).to(self.device)].sum()
        self.engine.train()
        summed = sum_over_ranks(torch.stack(list(sums.values()))).tolist()
        return {"tasks": {name: {"mae": value / len(rows)} for name, value in zip(sums, summed, strict=True)}}

    def score(self, metrics: dict[str, Any]) -> float:
        """The mean error, negative."""
        return -float(np.mean([each["mae"] for each in metrics["tasks"].values()]))

    def report(self, values: dict[str, float]) -> None:
        """Nobody chooses by it: a search looks at the training alone."""

    def write_model(self, folder: Path, state: dict[str, Tensor]) -> None:
        """The encoders' weights."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in state.items()}, folder / MODEL)

    def run(self) -> dict[str, Any]:
        """As `Worker.run`, with `WEIGHTS` at its end."""
        if self.rank == 0:
            print(f"pre-training of {', '.join(self.wanted)} by masked reconstruction", flush=True)
        ended = super().run()
        if ended["stopped_at"] is None:
            state, own = checkpoint.full_state(self.engine), "backbones."
            if self.rank == 0:
                weights = {key.removeprefix(own): value for key, value in state.items() if key.startswith(own)}
                with self.result.writing(WEIGHTS) as target:
                    target.write(save(weights))
                if self.shared:
                    self.shared.exchange(self.result)
            if self.world > 1:
                dist.barrier()
        return ended


class MaskedStep:
    """Makes optimiser steps of a masked reconstruction.

    Args:
        engine: of this rank.
        config: of the pre-training.
    """

    def __init__(self, engine: Any, config: TrainingConfig) -> None:
        self.engine, self.config = engine, config

    def __call__(self, batch: ECGBatch, whole: GlobalBatch) -> dict[str, Tensor]:
        """Train on this rank's share `batch` of a global batch.

        Returns:
            This rank's share of each encoder's mean error over the global batch.
        """
        micros = batch.to(self.engine.device).cut(self.config.accumulation)
        passes = dist.get_world_size() * len(micros)
        losses: dict[str, Tensor] = {}
        for micro in micros:
            with autocast(self.engine, self.config):
                errors = self.engine(micro)
            parts = {name: error.sum() / len(whole.rows) for name, error in errors.items()}
            # The engine averages over ranks and micro-steps; these are already shares of the global batch.
            self.engine.backward(torch.stack(list(parts.values())).sum() * passes)
            self.engine.step()
            losses = {name: losses.get(name, 0.0) + part.detach() for name, part in parts.items()}
        return losses
