"""The whole configuration of a run, assembled from the parts that own it, and the presets.

Presets are functions. What a preset leaves alone, and anything else, can be changed on the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config_tools import require
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.tasks import TASK_NAMES, Task, task_table
from ecgmoe.training.config import Augmentation, PretrainingConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes (where its data and results lie is not part of it).

    Attributes:
        tasks: any of rr, age, sex, potassium, arrhythmia.
        taxonomy: arrhythmia classes: "rhythm15" (clinical) or "report0_15" (the paper's list).
        backbones: the encoders of the multi-model path.
        start_from: model folder or URL whose weights the training begins with, of the same tasks, backbones and sizes; None
            begins with random ones.
    """

    tasks: tuple[str, ...] = TASK_NAMES
    taxonomy: str = "rhythm15"
    backbones: tuple[BackboneConfig, ...]
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    start_from: str | None = None

    def __post_init__(self) -> None:
        task_table(self.tasks, self.taxonomy)
        names = [backbone.name for backbone in self.backbones]
        require(
            bool(names) == (self.model.paths != "periodic"),
            f"paths={self.model.paths!r} with {len(names)} backbones: the periodic path alone takes none, the others need one",
        )
        require(
            self.model.paths == "both" or self.loss.contrastive_weight == 0,
            f"the contrastive term compares the two paths and paths is {self.model.paths!r}: set contrastive_weight to 0",
        )
        unknown = sorted(set(self.loss.task_weights) - set(self.tasks))
        require(not unknown, f"task_weights for {', '.join(unknown)}, which this run does not have")
        require(len(set(names)) == len(names), f"a backbone is named twice: {', '.join(names)}")
        missing = sorted(set(self.model.late_backbones) - set(names))
        require(not missing, f"late_backbones names {', '.join(missing)}, which is not among {', '.join(names)}")
        whole = [backbone.name for backbone in self.backbones if backbone.mode == "full"]
        other = sorted(set(self.pretraining.backbones) - set(whole))
        require(
            not other,
            f"pretraining.backbones names {', '.join(other)}, and only those in mode full learn by it: "
            f"{', '.join(whole) or 'there is none'} (--pretraining.epochs 0 does without)",
        )
        require(
            not self.pretraining.epochs or self.start_from is None,
            "pretraining would train the weights of start_from again: give one of them (--pretraining.epochs 0 does without)",
        )
        choice = len(names) - len(self.model.late_backbones)
        require(
            self.model.backbones_per_record <= choice,
            f"backbones_per_record {self.model.backbones_per_record} of {choice} backbones without heads of their own: "
            "choose fewer, or 0 for all",
        )
        require(
            not self.loss.backbone_cost_weight or bool(self.model.backbones_per_record),
            f"backbone_cost_weight {self.loss.backbone_cost_weight} where every record takes all backbones: set "
            "model.backbones_per_record, or the weight to 0",
        )
        require(
            not self.loss.load_balance_weight or self.model.gates_learn,
            f"load_balance_weight {self.loss.load_balance_weight} without a gate over experts that could learn it: set it to 0",
        )

    def task_table(self) -> tuple[Task, ...]:
        """The tasks of this run in canonical order."""
        return task_table(self.tasks, self.taxonomy)

    @property
    def cached(self) -> tuple[BackboneConfig, ...]:
        """The backbones whose features embed computes ahead of training."""
        return tuple(backbone for backbone in self.backbones if backbone.mode == "cached")

    @property
    def random_backbones(self) -> tuple[str, ...]:
        """Backbones without published weights: every report names them."""
        return tuple(backbone.name for backbone in self.backbones if backbone.weights is None)


RESIDUAL_NETWORK = BackboneConfig(
    name="residual_network",
    implementation="ecgmoe.backbones.residual_network:ResidualNetwork",
    # One size for all presets: a baseline that shrinks with the model would be none.
    size="base",
)
"""The waveform network that small data sets learn from best, as a backbone of ECG-MoE and as what it has to beat."""


def _with_recipe(config: RunConfig) -> RunConfig:
    """With what cross-validation on PTB-XL chose at `tiny` (docs/LOG.md) and what no size of encoder or data set decides."""
    return replace(
        config,
        backbones=(*config.backbones, RESIDUAL_NETWORK),
        model=replace(config.model, late_backbones=(RESIDUAL_NETWORK.name,)),
        loss=replace(config.loss, task_weighting="uncertainty", class_balance=0.5),
        training=replace(
            config.training,
            weight_average=0.99,
            augmentation=Augmentation(amplitude=0.1, lead_dropout=0.1, noise_uv=10.0, shift_ms=100.0),
        ),
    )


def tiny() -> RunConfig:
    """Two CPU cores, minutes for a thousand ECGs: the embedded default of `jobs/train.py`, with random-initialised backbones.

    The recipe was chosen by first looks at one or two folds of PTB-XL, and then cross-validated (docs/LOG.md). Its pre-training
    takes about as long as its training, and `--pretraining.epochs 0` leaves it out.
    """
    config = RunConfig(
        backbones=(
            BackboneConfig(name="timesnet", size="tiny", mode="full"),
            BackboneConfig(name="dlinear", size="tiny", mode="full"),
            BackboneConfig(name="moment", size="tiny", mode="cached", allow_random=True),
            BackboneConfig(name="tempo", size="tiny", mode="cached", allow_random=True),
            BackboneConfig(name="ecgfm", size="tiny", mode="cached", allow_random=True),
        ),
        # So few records are learnt by heart otherwise.
        model=ModelConfig(width=48, dropout=0.3, beat_dropout=0.3, backbone_dropout=0.5),
        training=TrainingConfig(epochs=25, learning_rate=3e-3, weight_decay=0.1),
    )
    config = _with_recipe(config)
    return replace(
        config,
        # Beside random-initialised encoders the waveform network knows more of most tasks (docs/LOG.md).
        model=replace(config.model, late_weight=3.0),
        pretraining=PretrainingConfig(backbones=(RESIDUAL_NETWORK.name,), epochs=60),
    )


def _published(moment: str) -> tuple[BackboneConfig, ...]:
    """The two encoders without published weights train, the other three are read from the hub and cached."""
    return (
        BackboneConfig(name="timesnet", size="base", mode="full"),
        BackboneConfig(name="dlinear", size="base", mode="full"),
        BackboneConfig(name="moment", mode="cached", weights=moment),
        BackboneConfig(name="tempo", mode="cached", weights="Melady/TEMPO"),
        BackboneConfig(name="ecgfm", mode="cached", weights="wanglab/ecg-fm"),
    )


def _on_gpus(moment: str) -> RunConfig:
    config = RunConfig(
        backbones=_published(moment),
        model=ModelConfig(width=128, attention_heads=8),
        training=TrainingConfig(use_gpu=True, precision="bf16", global_batch=256, slots=16, zero_stage=2),
    )
    return _with_recipe(config)


def base() -> RunConfig:
    """One GPU per worker and the published encoders; --backbones.2.weights takes a file instead of the hub.

    The recipe is that of `tiny` without its pre-training; with these encoders, and on a GPU, it was not run.
    """
    return _on_gpus("AutonLab/MOMENT-1-small")


def large() -> RunConfig:
    """As `base`, with MOMENT-large."""
    return _on_gpus("AutonLab/MOMENT-1-large")


def bench() -> RunConfig:
    """What `jobs/benchmark.py --stage training` measures: `tiny` with steps of a fraction of a second on one thread."""
    preset = tiny()
    return replace(preset, training=replace(preset.training, global_batch=16))


PRESETS: dict[str, Callable[[], RunConfig]] = {"tiny": tiny, "bench": bench, "base": base, "large": large}
