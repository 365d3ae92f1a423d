"""Sizes and loss weights of ECG-MoE. Free of torch, so that a command line can be built from it at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ecgmoe.config_tools import require

Paths = Literal["both", "periodic", "multi_model"]
MixtureName = Literal["ecg_moe", "concat", "moe", "time_moe", "self_attn", "cross_attn"]
TaskWeighting = Literal["equal", "fixed", "uncertainty"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of ECG-MoE.

    Attributes:
        width: D, channels of every token inside the model.
        attention_heads: of the attention over beats; divides width.
        beat_samples: L, samples to which each beat is resampled.
        max_beats: beats of a record that the model looks at, from the start; the others only count in the RR summary.
        mixture: "ecg_moe", or one of what it is compared with (model/mixtures.py), which see the backbones' tokens alone.
        mixture_experts, top_k: of the sparse mixtures "moe" and "time_moe".
        late_rr: give the heads the RR summary of the detector, and the RR head its median to start from.
        late_backbones: backbones that also have heads of their own, on their mean token and the RR summary. What the model
            predicts is a mean of these opinions and of the one on the fused features, each of which trains by itself.
        late_weight: how much each of these opinions counts in that mean; the one on the fused features counts 1. It changes no
            weight of the model, only what is predicted, and so which epoch is best.
        backbones_per_record: of the backbones without heads of their own, how many each record is fused with: those that the
            gate over the backbones gives most weight, on average over the tasks. The gate sees the record's characteristics
            alone, so that a trained model does not even compute the others; training computes all. 0 takes all.
        paths: which features are fused: of the periodic experts, of the backbones, or both (paper).
        morphology_kernels: one morphology expert per kernel size (paper: three CNNs with different kernels); may be empty.
        rhythm_dilations: one rhythm expert per tuple of dilations along the beat axis (paper: two dilated CNNs); may be
            empty.
        gate: weigh the experts by Eq. 3; without it all weigh alike.
        gate_temperature: divides the logits of Eq. 3: below 1 the gate tends to one expert, above 1 to all alike.
        task_conditioning: each task has a query, an embedding and gates of its own; without it all share one, and only
            adapters and heads tell tasks apart.
        lora_rank: r of the per-task adapters on the fusion trunk; 0 leaves them out.
        lora_alpha: adapters are scaled by alpha / rank.
        dropout: on the fused features.
        beat_dropout: share of the beats that training hides from the experts, drawn for each record anew.
        backbone_dropout: probability with which training hides a backbone from the fusion, for each record anew.
        periodic_dropout: the same of the periodic path, for each record and task.
    """

    width: int = 32
    attention_heads: int = 4
    beat_samples: int = 96
    max_beats: int = 40
    mixture: MixtureName = "ecg_moe"
    mixture_experts: int = 5
    top_k: int = 2
    late_rr: bool = True
    late_backbones: tuple[str, ...] = ()
    late_weight: float = 1.0
    backbones_per_record: int = 0
    paths: Paths = "both"
    morphology_kernels: tuple[int, ...] = (3, 7, 15)
    rhythm_dilations: tuple[tuple[int, ...], ...] = ((1, 2, 4), (1, 3, 9))
    gate: bool = True
    gate_temperature: float = 1.0
    task_conditioning: bool = True
    lora_rank: int = 8
    lora_alpha: float = 16.0
    dropout: float = 0.1
    beat_dropout: float = 0.0
    backbone_dropout: float = 0.0
    periodic_dropout: float = 0.0

    def __post_init__(self) -> None:
        require(self.width >= 8, f"width must be at least 8, got {self.width}")
        require(
            self.attention_heads >= 1 and self.width % self.attention_heads == 0,
            f"attention_heads must divide width ({self.width}), got {self.attention_heads}",
        )
        require(self.beat_samples >= 16, f"beat_samples must be at least 16, got {self.beat_samples}")
        require(self.max_beats >= 1, f"max_beats must be at least 1, got {self.max_beats}")
        require(
            all(k >= 1 and k % 2 == 1 for k in self.morphology_kernels),
            f"morphology_kernels must be odd, got {self.morphology_kernels}",
        )
        require(
            all(d >= 1 for ds in self.rhythm_dilations for d in ds) and all(self.rhythm_dilations),
            f"rhythm_dilations must be tuples of positive integers, got {self.rhythm_dilations}",
        )
        require(
            self.paths == "multi_model" or bool(self.morphology_kernels or self.rhythm_dilations),
            "the periodic path needs an expert: give morphology_kernels or rhythm_dilations, or paths='multi_model'",
        )
        require(
            self.mixture == "ecg_moe" or self.paths == "multi_model",
            f"mixture {self.mixture!r} sees no beats: set paths='multi_model'",
        )
        require(
            not self.late_backbones or (self.paths != "periodic" and self.mixture != "concat"),
            f"late_backbones {', '.join(self.late_backbones)}: the periodic path alone has no backbone, and the heads of "
            "mixture 'concat' read the backbones anyway",
        )
        require(len(set(self.late_backbones)) == len(self.late_backbones), "late_backbones: one is named twice")
        require(
            math.isfinite(self.late_weight) and self.late_weight > 0,
            f"late_weight must be above 0, got {self.late_weight} (no late_backbones leaves their opinions out)",
        )
        require(
            bool(self.late_backbones) or self.late_weight == 1,
            f"late_weight {self.late_weight:g} without late_backbones weighs nothing: leave it at 1",
        )
        require(
            self.backbones_per_record >= 0, f"backbones_per_record must be at least 0, got {self.backbones_per_record}"
        )
        require(
            not self.backbones_per_record or (self.mixture == "ecg_moe" and self.paths != "periodic"),
            "backbones_per_record needs the gate over the backbones: mixture 'ecg_moe' and paths 'both' or 'multi_model'",
        )
        require(
            self.backbones_per_record != 1 or bool(self.late_backbones),
            "backbones_per_record 1 without late_backbones: the gate would weigh one alone and learn nothing; choose 2",
        )
        require(
            1 <= self.top_k <= self.mixture_experts,
            f"top_k must be between 1 and mixture_experts ({self.mixture_experts}), got {self.top_k}",
        )
        require(self.gate_temperature > 0, f"gate_temperature must be > 0, got {self.gate_temperature}")
        require(
            self.gate_temperature == 1 or (self.mixture == "ecg_moe" and self.gates_learn),
            f"gate_temperature {self.gate_temperature} without the learnt gate of Eq. 3 over several experts: set it to 1",
        )
        require(self.lora_rank >= 0, f"lora_rank must be at least 0, got {self.lora_rank}")
        for name in ("dropout", "beat_dropout", "backbone_dropout", "periodic_dropout"):
            require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), got {getattr(self, name)}")

    @property
    def routing_is_shared(self) -> bool:
        """Whether one gate serves all tasks."""
        return self.mixture == "time_moe" or not self.task_conditioning

    @property
    def gates_learn(self) -> bool:
        """Whether the model has several experts and a learnt gate over them."""
        return len(self.expert_names) > 1 and (self.gate or self.mixture != "ecg_moe")

    @property
    def late_share(self) -> float:
        """What the late backbones' own heads have of each prediction."""
        weight = len(self.late_backbones) * self.late_weight
        return weight / (1 + weight)

    @property
    def expert_names(self) -> tuple[str, ...]:
        """The experts in the order of the axis E: morphology by kernel, rhythm by dilations; or those of a mixture."""
        if self.mixture in ("moe", "time_moe"):
            return tuple(f"expert_{number}" for number in range(self.mixture_experts))
        if self.paths == "multi_model":
            return ()
        morphology = [f"morphology_{kernel}" for kernel in self.morphology_kernels]
        return (*morphology, *(f"rhythm_{'_'.join(map(str, dilations))}" for dilations in self.rhythm_dilations))


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The composite loss (paper, Eq. 5).

    Attributes:
        task_weighting: "equal"; "fixed", by `task_weights`; or "uncertainty", learnt with the model (Kendall et al., CVPR
            2018, arXiv 1705.07115).
        task_weights: of the tasks in weighting "fixed"; a task that is not named weighs 1.
        contrastive_weight: lambda; 0 leaves the contrastive term out.
        temperature: of InfoNCE.
        load_balance_weight: of a term that keeps experts from falling idle (Shazeer et al., arXiv 1701.06538): the squared
            coefficient of variation of their use over the global batch; 0 leaves it out.
        backbone_cost_weight: of a term that makes the gate over the backbones prefer cheap ones where each record takes some
            alone (`backbones_per_record`): the FLOPs that its preferences amount to, equal ones being 1; 0 leaves it out.
        class_balance: exponent b of the class weights n_c^-b in the cross-entropy of multiclass tasks, scaled to a
            mean of 1 over the training records; 0 weighs every record alike.
    """

    task_weighting: TaskWeighting = "equal"
    task_weights: dict[str, float] = field(default_factory=dict)
    contrastive_weight: float = 0.1
    temperature: float = 0.1
    load_balance_weight: float = 0.0
    backbone_cost_weight: float = 0.0
    class_balance: float = 0.0

    def __post_init__(self) -> None:
        require(
            not self.task_weights or self.task_weighting == "fixed",
            f"task_weights belong to task_weighting 'fixed', not {self.task_weighting!r}",
        )
        require(
            all(weight >= 0 for weight in self.task_weights.values()),
            f"task_weights must be >= 0, got {self.task_weights}",
        )
        require(self.contrastive_weight >= 0, f"contrastive_weight must be >= 0, got {self.contrastive_weight}")
        require(self.load_balance_weight >= 0, f"load_balance_weight must be >= 0, got {self.load_balance_weight}")
        require(self.backbone_cost_weight >= 0, f"backbone_cost_weight must be >= 0, got {self.backbone_cost_weight}")
        require(self.temperature > 0, f"temperature must be > 0, got {self.temperature}")
        require(0 <= self.class_balance <= 1, f"class_balance must be in [0, 1], got {self.class_balance}")
