"""How a run trains. Free of torch and Ray, so that a command line can be built from it at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ecgmoe.config_tools import require

Precision = Literal["fp32", "bf16"]
EngineName = Literal["deepspeed", "ddp"]
Offload = Literal["none", "optimizer", "parameters"]
OptimizerName = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training records (`training/augment.py`); all off by default.

    Attributes:
        amplitude: standard deviation of the logarithm of a gain, the same for all leads of a record.
        lead_dropout: probability with which each lead is missing; one always stays.
        noise_uv: white noise of a standard deviation drawn from 0 to this, in microvolt.
        shift_ms: the record moves by up to so much to either side; what comes in is missing.
    """

    amplitude: float = 0.0
    lead_dropout: float = 0.0
    noise_uv: float = 0.0
    shift_ms: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.amplitude <= 1, f"amplitude must be in [0, 1], got {self.amplitude}")
        require(0 <= self.lead_dropout < 1, f"lead_dropout must be in [0, 1), got {self.lead_dropout}")
        require(0 <= self.noise_uv <= 1000, f"noise_uv must be in [0, 1000], got {self.noise_uv}")
        require(0 <= self.shift_ms <= 5000, f"shift_ms must be in [0, 5000], got {self.shift_ms}")


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """Masked reconstruction of the training split's ECGs before the training, without labels (`model/reconstruction.py`).

    Attributes:
        backbones: that learn by it; they train whole, and have features along time (residual_network).
        epochs: passes over the training split; 0 does none, and forgets whatever is named.
        learning_rate: peak of its schedule; all else is as in the training.
    """

    backbones: tuple[str, ...] = ()
    epochs: int = 0
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        require(self.epochs >= 0, f"pretraining.epochs must be at least 0, got {self.epochs}")
        require(
            bool(self.backbones) or not self.epochs,
            f"pretraining of no backbone over {self.epochs} epochs: name some with pretraining.backbones",
        )
        if not self.epochs:
            # One way to have none, so that a run that has none is the same run however it says so.
            object.__setattr__(self, "backbones", ())
        require(self.learning_rate > 0, f"pretraining.learning_rate must be > 0, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Workers, batches, optimiser, checkpoints.

    Attributes:
        num_workers: W, data-parallel Ray Train workers (ranks).
        min_workers: go on with as few when a node is lost, and take more, up to num_workers, when there are some; 0 waits for
            all of num_workers.
        use_gpu: one GPU per worker; without it each worker has one CPU and gloo.
        engine: "deepspeed", or "ddp", torch's own DistributedDataParallel, which shards nothing: the baseline.
        zero_stage: DeepSpeed ZeRO stage 0, 1, 2 or 3.
        offload: keep in the machine's memory what the stage shards: "optimizer" (its state, from stage 1) or "parameters"
            (the weights too, stage 3).
        bucket_mb: size of the buffers in which gradients and weights travel.
        precision: of the forward and backward pass; the optimiser works in fp32.
        global_batch: records per optimiser step over all workers.
        accumulation: micro-steps per optimiser step.
        slots: parallel streams of the epoch plan; fixed, whatever the number of workers, so that the order of records
            does not depend on it. Divides global_batch; num_workers divides it.
        epochs: passes over the training split; 0 keeps the heads as they were initialised.
        optimizer: "adamw" (beta2 0.95) or "sgd" (Nesterov).
        learning_rate: peak of the schedule.
        schedule: after the warm-up, "cosine" decays to zero and "constant" stays at the peak.
        warmup: share of all steps that is warm-up.
        weight_decay: of the optimiser, on matrices only.
        momentum: beta1 of AdamW, momentum of SGD.
        epsilon: of AdamW.
        clip_norm: global gradient norm bound.
        weight_average: decay of the running mean of the weights (`training/average.py`), which is what is validated, saved as
            the model and predicted with; 0 takes the weights as they are.
        augmentation: random changes of the training records.
        seed: of initialisation, order, dropout and augmentation.
        read_ahead: global batches read ahead of the training step.
        checkpoint_every: steps between checkpoints inside an epoch, with one before its validation; 0 checkpoints after the
            validation only, and an interrupted one costs its epoch.
        log_every: steps between progress lines and logged metrics.
        max_failures: restarts of the worker group before the run gives up.
        hang_timeout_s: seconds without progress of a rank (a pass of the model, or all of a checkpoint) after which it writes
            down where its threads stand, and the workers restart.
        skip_not_finite: batches that the run may leave out because a loss or the gradient is not finite; it stops at the
            next one.
    """

    num_workers: int = 2
    min_workers: int = 0
    use_gpu: bool = False
    engine: EngineName = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: Offload = "none"
    bucket_mb: float = 200.0
    precision: Precision = "fp32"
    global_batch: int = 32
    accumulation: int = 1
    slots: int = 8
    epochs: int = 20
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 2e-3
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.05
    momentum: float = 0.9
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    weight_average: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    read_ahead: int = 4
    checkpoint_every: int = 0
    log_every: int = 20
    max_failures: int = 3
    hang_timeout_s: float = 1800.0
    skip_not_finite: int = 0

    def __post_init__(self) -> None:
        require(self.num_workers >= 1, f"num_workers must be at least 1, got {self.num_workers}")
        require(
            0 <= self.min_workers <= self.num_workers,
            f"min_workers must be between 0 and num_workers {self.num_workers}, got {self.min_workers}",
        )
        require(self.zero_stage in (0, 1, 2, 3), f"zero_stage must be 0, 1, 2 or 3, got {self.zero_stage}")
        require(
            self.engine == "deepspeed" or (self.zero_stage == 0 and self.offload == "none"),
            f"engine 'ddp' shards and offloads nothing: set zero_stage to 0 (is {self.zero_stage}) and offload to 'none'",
        )
        least = {"none": 0, "optimizer": 1, "parameters": 3}[self.offload]
        require(
            self.zero_stage >= least,
            f"offload {self.offload!r} needs zero_stage {least} or more, got {self.zero_stage}",
        )
        require(self.bucket_mb > 0, f"bucket_mb must be > 0, got {self.bucket_mb}")
        require(self.slots % self.num_workers == 0, f"num_workers {self.num_workers} must divide slots {self.slots}")
        require(
            self.global_batch >= 1 and self.global_batch % self.slots == 0,
            f"slots {self.slots} must divide global_batch {self.global_batch}",
        )
        require(
            self.accumulation >= 1 and (self.global_batch // self.num_workers) % self.accumulation == 0,
            f"accumulation {self.accumulation} must divide the {self.global_batch // self.num_workers} records per "
            "worker and step",
        )
        require(self.epochs >= 0, f"epochs must be at least 0, got {self.epochs}")
        require(self.learning_rate > 0, f"learning_rate must be > 0, got {self.learning_rate}")
        require(0 <= self.warmup < 1, f"warmup must be in [0, 1), got {self.warmup}")
        require(self.weight_decay >= 0, f"weight_decay must be >= 0, got {self.weight_decay}")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")
        require(self.epsilon > 0, f"epsilon must be > 0, got {self.epsilon}")
        require(self.clip_norm > 0, f"clip_norm must be > 0, got {self.clip_norm}")
        require(0 <= self.weight_average < 1, f"weight_average must be in [0, 1), got {self.weight_average}")
        require(self.read_ahead >= 1, f"read_ahead must be at least 1, got {self.read_ahead}")
        require(self.checkpoint_every >= 0, f"checkpoint_every must be >= 0, got {self.checkpoint_every}")
        require(self.log_every >= 1, f"log_every must be at least 1, got {self.log_every}")
        require(self.max_failures >= 0, f"max_failures must be >= 0, got {self.max_failures}")
        require(self.hang_timeout_s > 0, f"hang_timeout_s must be > 0, got {self.hang_timeout_s}")
        require(self.skip_not_finite >= 0, f"skip_not_finite must be >= 0, got {self.skip_not_finite}")

    @property
    def bucket_elements(self) -> int:
        """fp32 numbers in `bucket_mb`."""
        return int(self.bucket_mb * 1e6 / 4)
