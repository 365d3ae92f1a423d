"""Sizes and loss weights of ECG-MoE. Free of torch, so that a command line can be built from it at once."""

from __future__ import annotations

from dataclasses import dataclass

from ecgmoe.config_tools import require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of ECG-MoE.

    Attributes:
        width: D, channels of every token inside the model.
        attention_heads: of the attention over beats; divides width.
        beat_samples: L, samples to which each beat is resampled.
        max_beats: beats of a record that the model looks at, from the start; the others only count in the RR summary.
        morphology_kernels: one morphology expert per kernel size (paper: three CNNs with different kernels).
        rhythm_dilations: one rhythm expert per tuple of dilations along the beat axis (paper: two dilated CNNs).
        lora_rank: r of the per-task adapters on the fusion trunk.
        lora_alpha: adapters are scaled by alpha / rank.
        dropout: on the fused features.
    """

    width: int = 32
    attention_heads: int = 4
    beat_samples: int = 96
    max_beats: int = 40
    morphology_kernels: tuple[int, ...] = (3, 7, 15)
    rhythm_dilations: tuple[tuple[int, ...], ...] = ((1, 2, 4), (1, 3, 9))
    lora_rank: int = 8
    lora_alpha: float = 16.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require(self.width >= 8, f"width must be at least 8, got {self.width}")
        require(
            self.attention_heads >= 1 and self.width % self.attention_heads == 0,
            f"attention_heads must divide width ({self.width}), got {self.attention_heads}",
        )
        require(self.beat_samples >= 16, f"beat_samples must be at least 16, got {self.beat_samples}")
        require(self.max_beats >= 1, f"max_beats must be at least 1, got {self.max_beats}")
        require(
            bool(self.morphology_kernels) and all(k % 2 == 1 for k in self.morphology_kernels),
            f"morphology_kernels must be odd and at least one, got {self.morphology_kernels}",
        )
        require(
            bool(self.rhythm_dilations) and all(d >= 1 for ds in self.rhythm_dilations for d in ds),
            f"rhythm_dilations must be at least one tuple of positive integers, got {self.rhythm_dilations}",
        )
        require(self.lora_rank >= 1, f"lora_rank must be at least 1, got {self.lora_rank}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The composite loss (paper, Eq. 5).

    Attributes:
        contrastive_weight: lambda; 0 leaves the contrastive term out.
        temperature: of InfoNCE.
        class_balance: exponent b of the class weights n_c^-b in the cross-entropy of multiclass tasks, scaled to a
            mean of 1 over the training records; 0 weighs every record alike.
    """

    contrastive_weight: float = 0.1
    temperature: float = 0.1
    class_balance: float = 0.0

    def __post_init__(self) -> None:
        require(self.contrastive_weight >= 0, f"contrastive_weight must be >= 0, got {self.contrastive_weight}")
        require(self.temperature > 0, f"temperature must be > 0, got {self.temperature}")
        require(0 <= self.class_balance <= 1, f"class_balance must be in [0, 1], got {self.class_balance}")
