"""What one pass of the model gives: predictions, where they came from, and what the losses read.

Legend: B batch, N beats, K backbones, D width, E experts, P tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Where a prediction came from.

    Attributes:
        experts: g_p of Eq. 3, (B, P, E), morphology experts first; None without experts.
        paths: alpha_m and alpha_p of Eq. 4, (B, P, 2); None where there is one path alone.
        backbones: alpha over the backbones inside F_m, (B, P, K), 0 for those that a record is not fused with; None without it.
        beats: attention over the beats of each expert, (B, P, E, N + 1), "no beat" last; None without periodic path.
        preference: of the gate over the backbones among those that a record chooses of (`choosable`), (B, choosable); None
            where it takes all, and outside of training.
    """

    experts: Tensor | None
    paths: Tensor | None
    backbones: Tensor | None
    beats: Tensor | None
    preference: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one pass gives.

    Attributes:
        predictions: by task: (B,) in standardised units for regression, (B,) logits for binary, (B, classes) logits; the mean
            of the opinions, in which each late backbone's counts `ModelConfig.late_weight`.
        opinions: the same of the heads on the fused features, and of each late backbone's own; each has the losses.
        routing: gate and fusion weights.
        contrast: the projected F_m and the projected mean of F_periodic, each (B, D), for InfoNCE; None in a model
            without that term, or where only some tasks were asked for.
        log_variance: of each task's loss, (P,), where it is learnt.
    """

    predictions: dict[str, Tensor]
    opinions: tuple[dict[str, Tensor], ...]
    routing: Routing
    contrast: tuple[Tensor, Tensor] | None
    log_variance: Tensor | None
