"""The weights that a run's pre-training leaves for its training, and for other runs that would do the same one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from ecgmoe.backbones.base import Backbone
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import to_dict
from ecgmoe.filesystem import temporary_folder
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store, digest_of
from ecgmoe.training.config import Augmentation, TrainingConfig
from ecgmoe.training.identity import LAYOUT, run_identity

FOLDER = "pretraining"
WEIGHTS = f"{FOLDER}/backbones.safetensors"
"""In the run's folder: weights of all backbones that were pre-trained, as <name>.<weight>. It says that this is done."""
SEEN_S = 60.0
"""After so long every node sees what rank 0 has written: a network file system may remember that it was not there."""


def load_pretrained(backbones: Mapping[str, Backbone], run: Store) -> None:
    """Give the backbones their weights of `WEIGHTS`, strictly."""
    ends = time.monotonic() + SEEN_S
    while not run.exists(WEIGHTS) and time.monotonic() < ends:
        time.sleep(1)
    with temporary_folder() as folder:
        run.download(WEIGHTS, folder / "weights")
        state = load_file(Path(folder) / "weights")
    for name in dict.fromkeys(key.partition(".")[0] for key in state):
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        backbones[name].load_state_dict(own)


def training_of(config: RunConfig) -> TrainingConfig:
    """How a run's pre-training trains: as the run does, but for these."""
    return replace(
        config.training,
        epochs=config.pretraining.epochs,
        learning_rate=config.pretraining.learning_rate,
        # No mean of the weights: training goes on from them, not from where they were on average.
        weight_average=0.0,
        augmentation=Augmentation(),
    )


def pretraining_key(config: RunConfig, data: PreparedData) -> str:
    """The same for all runs whose pre-training is the same one, whatever else they train, over whatever workers."""
    backbones = [to_dict(each) for each in config.backbones if each.name in config.pretraining.backbones]
    training = {key: value for key, value in to_dict(training_of(config)).items() if key not in LAYOUT}
    return digest_of([backbones, training, run_identity(config, data)["data"]])[:16]


class SharedPretraining:
    """The file that runs have in common whose pre-training is the same one: whoever comes first leaves it.

    Args:
        folder: of a table or a search.
        config: of a run of it, with a pre-training.
        data: that the run trains on.
    """

    def __init__(self, folder: Store, config: RunConfig, data: PreparedData) -> None:
        self.folder = folder
        self.file = f"{FOLDER}/{pretraining_key(config, data)}.safetensors"

    def exchange(self, run: Store) -> None:
        """Give the run what another one left, or leave what it has to others."""
        if run.exists(WEIGHTS):
            if not self.folder.exists(self.file):
                _copy(run, WEIGHTS, self.folder, self.file)
        elif self.folder.exists(self.file):
            _copy(self.folder, self.file, run, WEIGHTS)
            print(f"pre-training of another run: {self.folder.path(self.file)}", flush=True)


def _copy(source: Store, name: str, target: Store, as_name: str) -> None:
    with source.reading(name) as there, target.writing(as_name) as here:
        shutil.copyfileobj(there, here)
