"""The weights that a run's pre-training leaves for its training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from ecgmoe.backbones.base import Backbone
from ecgmoe.filesystem import temporary_folder
from ecgmoe.pipeline.store import Store

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
