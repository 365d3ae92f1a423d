"""ECG-MoE: multi-model features, periodic experts, hierarchical fusion, one head per task, all tasks in one pass.

Legend: B batch, C 12 leads, T 5000 samples, N beats, K backbones, D width, E experts, P tasks, X characteristics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.experts import PeriodicExperts
from ecgmoe.model.frontend import CHARACTERISTICS, SUMMARY, characteristics, cut_beats, rr_summary
from ecgmoe.model.fusion import FusionTrunk, MultiModelFeatures
from ecgmoe.model.gating import ExpertGate, FusionGate, TaskConditioning
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Where a prediction came from.

    Attributes:
        experts: g_p of Eq. 3, (B, P, E), morphology experts first.
        paths: alpha_m and alpha_p of Eq. 4, (B, P, 2).
        backbones: alpha over the backbones inside F_m, (B, P, K).
        beats: attention over the beats of each expert, (B, P, E, N + 1), "no beat" last.
    """

    experts: Tensor
    paths: Tensor
    backbones: Tensor
    beats: Tensor


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one pass gives.

    Attributes:
        predictions: by task: (B,) in standardised units for regression, (B,) logits for binary, (B, classes) logits.
        routing: gate and fusion weights.
        contrast: the projected F_m and the projected mean of F_periodic, each (B, D), for InfoNCE.
    """

    predictions: dict[str, Tensor]
    routing: Routing
    contrast: tuple[Tensor, Tensor]


class ECGMoE(nn.Module):
    """The model.

    Args:
        config: sizes.
        tasks: in canonical order; one head, one gate and one adapter each.
        widths: token width of every backbone, in the order of the configuration.
        statistics: of the training split.
        live: backbones that run in the graph (modes frozen and full); features of the others come with the batch.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        tasks: Sequence[Task],
        widths: Mapping[str, int],
        statistics: TrainingStatistics,
        live: Mapping[str, Backbone],
    ) -> None:
        super().__init__()
        self.config, self.tasks = config, tuple(tasks)
        self.target_mean, self.target_std = statistics.target_mean, statistics.target_std
        p, d = len(self.tasks), config.width
        self.backbones = nn.ModuleDict(dict(live))
        self.multi_model = MultiModelFeatures(widths, d)
        self.periodic = PeriodicExperts(
            width=d,
            heads=config.attention_heads,
            tasks=p,
            kernels=config.morphology_kernels,
            dilations=config.rhythm_dilations,
        )
        self.conditioning = TaskConditioning(p, len(CHARACTERISTICS), d)
        self.gate = ExpertGate(p, self.conditioning.width, self.periodic.experts)
        self.path_gate = FusionGate(self.conditioning.width, d, 2)
        self.backbone_gate = FusionGate(self.conditioning.width, d, len(widths))
        self.trunk = FusionTrunk(
            (len(widths) + 1) * d,
            d,
            tasks=p,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.dropout,
        )
        self.heads = nn.ModuleDict({task.name: nn.Linear(d + len(SUMMARY), task.outputs) for task in self.tasks})
        self.contrast_m = nn.Linear(len(widths) * d, d)
        self.contrast_p = nn.Linear(d, d)
        for name in ("characteristics", "summary"):
            for moment in ("mean", "std"):
                values = torch.tensor(getattr(statistics, f"{name}_{moment}"), dtype=torch.float32)
                self.register_buffer(f"{name}_{moment}", values)

    def forward(self, batch: ECGBatch) -> Output:
        """All tasks for B records."""
        x_BCT = to_millivolt(batch.signal)
        features = {name: batch.features[name].to(x_BCT.dtype) for name in batch.features}
        features |= {name: backbone(x_BCT) for name, backbone in self.backbones.items()}
        F_m = self.multi_model(features)

        beats = cut_beats(x_BCT, batch.r_peaks, self.config.beat_samples, self.config.max_beats)
        by_expert, attention = self.periodic(beats)
        summary = rr_summary(batch.r_peaks)
        x_bar = self._standardised("characteristics", characteristics(batch.signal, batch.r_peaks))
        conditioning = self.conditioning(x_bar)
        g = self.gate(conditioning)
        F_periodic = torch.einsum("bpe,bped->bpd", g.to(by_expert.dtype), by_expert)

        alpha_k, alpha = self.backbone_gate(conditioning), self.path_gate(conditioning)
        fused = fuse(F_m, F_periodic, alpha_k, alpha)
        hidden = self.trunk(fused)
        late = self._standardised("summary", summary)
        predictions = {
            task.name: self._head(task, torch.cat([hidden[:, p], late.to(hidden.dtype)], 1), summary)
            for p, task in enumerate(self.tasks)
        }
        return Output(
            predictions=predictions,
            routing=Routing(experts=g, paths=alpha, backbones=alpha_k, beats=attention),
            contrast=(self.contrast_m(F_m.flatten(1)), self.contrast_p(F_periodic.mean(1))),
        )

    def train(self, mode: bool = True) -> ECGMoE:
        """Training mode, but for frozen backbones: their dropout would make them another function."""
        super().train(mode)
        for backbone in self.backbones.values():
            if not any(parameter.requires_grad for parameter in backbone.parameters()):
                backbone.eval()
        return self

    def _head(self, task: Task, features: Tensor, summary: Tensor) -> Tensor:
        prediction = self.heads[task.name](features).float()
        if task.kind != "multiclass":
            prediction = prediction.squeeze(-1)
        if task.name == "rr":
            # The head learns a correction to the detector's median, which is already within milliseconds.
            median = summary[:, 0]
            start = (median - self.target_mean["rr"]) / self.target_std["rr"]
            prediction = prediction + torch.where(median > 0, start, 0.0)
        return prediction

    def _standardised(self, name: str, values: Tensor) -> Tensor:
        # Bounded, so that one electrode fault of 10 mV does not saturate every gate.
        mean, std = self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_std")
        return ((values - mean) / std).clamp(-5, 5)

    def in_units(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions as a user reads them: ms and years, probabilities of female / abnormal / each class."""
        values = {}
        for task in self.tasks:
            raw = predictions[task.name].float()
            if task.kind == "regression":
                values[task.name] = raw * self.target_std[task.name] + self.target_mean[task.name]
            else:
                values[task.name] = raw.sigmoid() if task.kind == "binary" else raw.softmax(-1)
        return values


def fuse(F_m: Tensor, F_periodic: Tensor, alpha_k: Tensor, alpha: Tensor) -> Tensor:
    """Eq. 4: F_fused = [alpha_m F_m, alpha_p F_periodic], with F_m weighed over its backbones first.

    Args:
        F_m: (B, K, D).
        F_periodic: (B, P, D).
        alpha_k: (B, P, K), weights of the backbones.
        alpha: (B, P, 2), weights of the paths. Both are scaled by the number of choices, so that equal weights are 1.

    Returns:
        (B, P, (K + 1) D).
    """
    weights_k = alpha_k.to(F_m.dtype) * alpha_k.shape[-1]
    weights = alpha.to(F_m.dtype) * alpha.shape[-1]
    multi = (weights_k[..., None] * F_m[:, None]).flatten(2)
    return torch.cat([weights[..., :1] * multi, weights[..., 1:] * F_periodic], -1)
