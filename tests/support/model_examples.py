"""Small batches and models for the tests of the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ecgmoe.backbones import registry
from ecgmoe.backbones.base import Architecture, Backbone
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.model.batch import ECGBatch, pad_r_peaks
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.folder import model_config, save_model
from ecgmoe.model.frontend import CHARACTERISTICS
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.model.trained_on import TrainedOn
from ecgmoe.tasks import TASK_NAMES, Task, task_table

TASKS = task_table()
CLASSES = 15


class Probe(Backbone):
    """One linear layer per sample: enough to be a backbone."""

    leads, normalisation = "together", "none (mV)"

    def __init__(self) -> None:
        super().__init__(Architecture(samples=100, tokens=4), width=6)
        self.layer = nn.Linear(12, 6)

    def encode(self, x_BCS: Tensor) -> Tensor:
        return self.layer(x_BCS.transpose(1, 2))


def statistics() -> TrainingStatistics:
    x = len(CHARACTERISTICS)
    return TrainingStatistics(
        characteristics_mean=(0.1,) * x,
        characteristics_std=(1.0,) * x,
        summary_mean=(800.0, 800.0, 30.0, 700.0, 900.0, 40.0),
        summary_std=(150.0, 150.0, 40.0, 150.0, 200.0, 60.0),
        target_mean={"rr": 800.0, "age": 60.0},
        target_std={"rr": 150.0, "age": 15.0},
        class_weights={"arrhythmia": tuple(0.5 + 0.1 * index for index in range(CLASSES))},
    )


def model(seed: int = 0, config: ModelConfig | None = None, tasks: Sequence[Task] = TASKS) -> ECGMoE:
    torch.manual_seed(seed)
    return ECGMoE(
        config or ModelConfig(width=16, lora_rank=2, dropout=0.0),
        tasks=tasks,
        widths={"probe": 6, "stored": 5},
        statistics=statistics(),
        live={"probe": Probe()},
        contrast=True,
    )


def batch(beats: tuple[int, ...] = (10, 14, 8, 11), seed: int = 0) -> ECGBatch:
    """Records with so many beats each, labels missing here and there, the last two of one patient."""
    generator = np.random.default_rng(seed)
    n = len(beats)
    peaks = [
        np.sort(generator.choice(np.arange(50, 4950, 60), count, replace=False)).astype(np.int32) for count in beats
    ]
    labels = {
        "rr": generator.normal(800, 100, n),
        "age": generator.normal(60, 10, n),
        "sex": generator.integers(0, 2, n),
        "potassium": generator.integers(0, 2, n),
        "arrhythmia": generator.integers(0, CLASSES, n),
    }
    tensors = {name: torch.tensor(values, dtype=torch.float32) for name, values in labels.items()}
    tensors["potassium"][0] = torch.nan
    tensors["arrhythmia"][-1] = torch.nan
    return ECGBatch(
        signal=torch.from_numpy(generator.normal(0, 300, (n, 12, 5000)).astype(np.int16)),
        r_peaks=pad_r_peaks(peaks),
        study_id=torch.arange(n),
        patient_id=torch.tensor([*range(n - 1), n - 2]),
        labels=tensors,
        features={"stored": torch.from_numpy(generator.normal(0, 1, (n, 3, 5)).astype(np.float16))},
    )


TRAINED_ON = TrainedOn(
    dataset="made-up",
    records=1234,
    patients=1001,
    labels={"rr": 1234, "age": 1200, "sex": 1234, "potassium": 0, "arrhythmia": 1100},
    labels_sha256="0123456789abcdef",
    preprocessing_version=3,
)
"""Of a model that was never told of potassium."""


def saved_model(
    folder: Path, seed: int = 0, config: ModelConfig | None = None, trained_on: TrainedOn | None = None
) -> ECGMoE:
    """A small model of a live and a cached backbone with random weights, written to `folder`."""
    backbones = {
        "dlinear": registry.build(BackboneConfig(name="dlinear", size="tiny", seed=seed)),
        "timesnet": registry.build(BackboneConfig(name="timesnet", size="tiny", seed=seed)),
    }
    config = config or ModelConfig(width=16)
    torch.manual_seed(seed)
    net = ECGMoE(
        config,
        tasks=TASKS,
        widths={name: backbone.width for name, backbone in backbones.items()},
        statistics=statistics(),
        live={"dlinear": backbones["dlinear"]},
    )
    content = model_config(
        config,
        tasks=TASK_NAMES,
        taxonomy="rhythm15",
        backbones=backbones,
        statistics=statistics(),
        trained_on=trained_on,
    )
    save_model(folder, dict(net.state_dict()), content, {"timesnet": backbones["timesnet"]})
    return net.eval()
