"""ECG-MoE: multi-model features, periodic experts, hierarchical fusion, one head per task, all tasks in one pass.

    Eq. 1  F_k = f_k(DS_k(X))                          backbones/base.py     Backbone.forward
    Eq. 2  F_m = concat_k (W_k F_k + b_k)              fusion.py             MultiModelFeatures
    Eq. 3  g_p = softmax(U_p [x_bar + e_t])            gating.py             ExpertGate
    Eq. 4  F_fused = [alpha_m F_m, alpha_p F_periodic]  here                  fuse; gating.py FusionGate
    Eq. 5  L = sum of task losses + lambda x contrast  losses.py             composite

Legend: B batch, C 12 leads, T 5000 samples, N beats, K backbones, D width, E experts, P tasks, X characteristics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.experts import PeriodicExperts
from ecgmoe.model.frontend import CHARACTERISTICS, SUMMARY, characteristics, cut_beats, rr_summary
from ecgmoe.model.fusion import FusionTrunk, MultiModelFeatures
from ecgmoe.model.gating import ExpertGate, FusionGate, Positions, TaskConditioning
from ecgmoe.model.mixtures import MIXTURES, Mixture
from ecgmoe.model.output import Output, Routing
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.model.trained_on import TrainedOn
from ecgmoe.tasks import Task


class ECGMoE(nn.Module):
    """The model.

    Attributes:
        trained_on: the training split, where a model folder told of it.
        computes_chosen_only: with `backbones_per_record`, a pass in evaluation mode computes for each record the backbones that
            it is fused with, and no others; the predictions are the same. Ranks that share the model's weights (ZeRO 3) must
            all call the same modules, and a graph (`torch.export`) holds all, so that only who predicts sets it.

    Args:
        config: sizes.
        tasks: in canonical order; one head, one gate and one adapter each.
        widths: token width of every backbone, in the order of the configuration.
        statistics: of the training split.
        live: backbones that run in the graph (all modes but cached); features of the others come with the batch.
        contrast: have the projections of the contrastive term, which only training needs.
        learnt_weights: have a weight of each task's loss learnt with the model (`LossConfig.task_weighting`).
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        tasks: Sequence[Task],
        widths: Mapping[str, int],
        statistics: TrainingStatistics,
        live: Mapping[str, Backbone],
        contrast: bool = False,
        learnt_weights: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.tasks, self.statistics = config, tuple(tasks), statistics
        self.backbone_names = tuple(widths)
        self.trained_on: TrainedOn | None = None
        self.computes_chosen_only = False
        self.target_mean, self.target_std = statistics.target_mean, statistics.target_std
        p, d = len(self.tasks), config.width
        # What all tasks share stands once, and is spread over them where adapters and heads begin.
        own = p if config.task_conditioning else 1
        self.backbones = nn.ModuleDict(dict(live))
        with_backbones, with_beats = config.paths != "periodic", config.paths != "multi_model"
        self.mixture: Mixture | None = None
        if with_backbones:
            self.multi_model = MultiModelFeatures(widths, d, pooled=config.mixture == "ecg_moe")
        if config.mixture != "ecg_moe":
            self.mixture = MIXTURES[config.mixture](config, len(widths), own)
            fused_width = self.mixture.width
        else:
            fused_width = (len(widths) * with_backbones + with_beats) * d
            if with_beats:
                self.periodic = PeriodicExperts(
                    width=d,
                    heads=config.attention_heads,
                    tasks=own,
                    kernels=config.morphology_kernels,
                    dilations=config.rhythm_dilations,
                    beat_dropout=config.beat_dropout,
                )
            self.conditioning = TaskConditioning(own, len(CHARACTERISTICS), d)
            if with_beats and config.gates_learn:
                self.gate = ExpertGate(own, self.conditioning.width, self.periodic.experts, config.gate_temperature)
            if with_beats and with_backbones:
                self.path_gate = FusionGate(self.conditioning.width, d, 2)
            # Among one there is nothing to weigh, and nothing that a gradient could reach.
            if len(widths) > 1:
                self.backbone_gate = FusionGate(self.conditioning.width, d, len(widths))
        if config.mixture != "concat":
            self.trunk = FusionTrunk(
                fused_width, d, tasks=p, rank=config.lora_rank, alpha=config.lora_alpha, dropout=config.dropout
            )
            fused_width = d
        late = len(SUMMARY) if config.late_rr else 0

        def heads(inputs: int) -> nn.ModuleDict:
            return nn.ModuleDict({task.name: nn.Linear(inputs + late, task.outputs) for task in self.tasks})

        self.heads = heads(fused_width)
        self.late_heads = nn.ModuleDict({name: heads(widths[name]) for name in config.late_backbones})
        self.late_dropout = nn.Dropout(config.dropout)
        # Whole rows of D, so that what is fused cannot lean on one part alone.
        self.backbone_dropout = nn.Dropout1d(config.backbone_dropout)
        self.periodic_dropout = nn.Dropout1d(config.periodic_dropout)
        self.contrast = contrast
        if contrast:
            self.contrast_m = nn.Linear(len(widths) * d, d)
            self.contrast_p = nn.Linear(d, d)
        # s_t of Kendall et al.: the logarithm of a task's variance.
        self.log_variance = nn.Parameter(torch.zeros(p)) if learnt_weights else None
        for name in ("characteristics", "summary"):
            for moment in ("mean", "std"):
                values = torch.tensor(getattr(statistics, f"{name}_{moment}"), dtype=torch.float32)
                self.register_buffer(f"{name}_{moment}", values)

    def forward(self, batch: ECGBatch, only: Sequence[str] | None = None) -> Output:
        """All tasks for B records, or `only` some by name, without computing what belongs to the others alone.

        Raises:
            ValueError: the model has no task of that name.
        """
        unknown = set(only or ()) - {task.name for task in self.tasks}
        if unknown:
            have = ", ".join(task.name for task in self.tasks)
            raise ValueError(f"this model has no task {', '.join(sorted(unknown))}: choose of {have}")
        tasks = [task for task in self.tasks if only is None or task.name in only]
        at: Positions = slice(None) if only is None else [self.tasks.index(task) for task in tasks]
        own = at if self.config.task_conditioning else slice(None)
        x_BCT = to_millivolt(batch.signal)
        with_backbones, several = self.config.paths != "periodic", len(self.backbone_names) > 1
        some = self.config.backbones_per_record > 0 and several and self.computes_chosen_only and not self.training
        features: dict[str, Tensor] = {}
        if with_backbones and not some:
            features = {name: self._features(name, batch, x_BCT) for name in self.backbone_names}

        F_m = alpha_k = F_periodic = g = attention = alpha = preference = None
        if self.mixture is not None:
            fused, g = self.mixture(self.multi_model.tokens(features), own)
        else:
            x_bar = self._standardised("characteristics", characteristics(batch.signal, batch.r_peaks))
            conditioning = self.conditioning(x_bar, own)
            if with_backbones:
                alpha_k, taken = torch.ones_like(conditioning[..., :1]), None
                if several:
                    alpha_k, taken, preference = self._backbone_weights(x_bar, conditioning)
                if some and taken is not None:
                    features, F_m = self._chosen(batch, x_BCT, taken)
                else:
                    F_m = self.multi_model(features)
            if self.config.paths != "multi_model":
                beats = cut_beats(x_BCT, batch.r_peaks, self.config.beat_samples, self.config.max_beats)
                by_expert, attention = self.periodic(beats, own)
                g = self.gate(conditioning, own) if self.config.gates_learn else equal_weights(by_expert)
                F_periodic = torch.einsum("bpe,bped->bpd", g.to(by_expert.dtype), by_expert)
            alpha = self.path_gate(conditioning) if F_m is not None and F_periodic is not None else None
            fused = fuse(
                None if F_m is None else self.backbone_dropout(F_m),
                None if F_periodic is None else self.periodic_dropout(F_periodic),
                alpha_k,
                alpha,
            )

        hidden = fused.expand(-1, len(tasks), -1)
        if self.config.mixture != "concat":
            hidden = self.trunk(hidden, at)
        summary = rr_summary(batch.r_peaks)
        late = self._standardised("summary", summary).to(hidden.dtype) if self.config.late_rr else hidden[:, 0, :0]
        opinions = [
            {
                task.name: self._head(self.heads, task, torch.cat([hidden[:, p], late], 1), summary)
                for p, task in enumerate(tasks)
            }
        ]
        for name, heads in self.late_heads.items():
            token = self.late_dropout(self.multi_model.mean_token(features, name))
            seen = torch.cat([token.to(hidden.dtype), late], 1)
            opinions.append({task.name: self._head(heads, task, seen, summary) for task in tasks})
        contrast = None
        if self.contrast and F_m is not None and F_periodic is not None and only is None:
            contrast = self.contrast_m(F_m.flatten(1)), self.contrast_p(F_periodic.mean(1))
        return Output(
            predictions={task.name: self._mean([each[task.name] for each in opinions]) for task in tasks},
            opinions=tuple(opinions),
            routing=Routing(experts=g, paths=alpha, backbones=alpha_k, beats=attention, preference=preference),
            contrast=contrast,
            # A copy: under ZeRO 3 the parameter itself is empty once the forward pass is over.
            log_variance=None if self.log_variance is None else self.log_variance.clone(),
        )

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, token: str | None = None) -> ECGMoE:
        """A trained model in evaluation mode, starting from waveforms. Neither Ray nor DeepSpeed is imported.

        What it returns is as trained: calibrated probabilities, intervals and the quality policy are `ecgmoe.predict`'s.

        Args:
            source: a model folder, or "owner/name" of a model on the hub.
            revision: branch, tag or commit on the hub.
            token: for a model on the hub that is not public; None takes the one that `hf auth login` stored.

        Raises:
            ModelFolderError: it is not there, torn, or not a model of this project; the message says what to do.
        """
        from ecgmoe.model import pretrained

        return pretrained.load(source, revision=revision, token=token)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json, from which `from_pretrained` makes the same model.

        A calibration is not the model's: it holds for the weights that it was fitted to, and stays where it was.

        Raises:
            ValueError: cached backbones are not part of this model, so that it could not start from waveforms.
            StorageError: the folder cannot be written.
        """
        from ecgmoe.model import pretrained

        pretrained.save(self, Path(folder))

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Put what `save_pretrained` writes on the hub, and return its address.

        `jobs/publish.py` takes a run's folder, with its card and its calibration.

        Args:
            repo_id: "owner/name", made where it is not there.
            private: of a new one.
            token: as for `from_pretrained`.
        """
        from ecgmoe.model import pretrained

        return pretrained.push(self, repo_id, private=private, token=token)

    def train(self, mode: bool = True) -> ECGMoE:
        """Training mode, but for frozen backbones: their dropout would make them another function."""
        super().train(mode)
        for backbone in self.backbones.values():
            if not any(parameter.requires_grad for parameter in backbone.parameters()):
                backbone.eval()
        return self

    @property
    def live(self) -> dict[str, Backbone]:
        """The backbones that run in the graph, by name, in the order of the configuration."""
        return {name: self.backbones[name] for name in self.backbone_names if name in self.backbones}  # type: ignore[misc]

    @property
    def choosable(self) -> tuple[str, ...]:
        """The backbones among which `backbones_per_record` chooses."""
        return tuple(name for name in self.backbone_names if name not in self.config.late_backbones)

    def _features(self, name: str, batch: ECGBatch, x_BCT: Tensor, rows: Tensor | None = None) -> Tensor:
        """Tokens of one backbone, computed or from the batch, of all records or of those at `rows`."""
        if name in self.backbones:
            return self.backbones[name](x_BCT if rows is None else x_BCT[rows])
        found = batch.features[name].to(x_BCT.dtype)
        return found if rows is None else found[rows]

    def _backbone_weights(self, x_bar: Tensor, conditioning: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """alpha_k (B, P, K) of the tasks in `conditioning`; which backbones each record takes, (B, K), and the preference of
        `Routing`, both None where it takes all."""
        if not self.config.backbones_per_record:
            return self.backbone_gate(conditioning), None, None
        # By all tasks, so that what one predicts does not depend on which others are asked for.
        every = self.conditioning(x_bar, slice(None))
        always = [self.backbone_names.index(name) for name in self.config.late_backbones]
        taken = self.backbone_gate.most_weighed(every, self.config.backbones_per_record, always)
        among = [self.backbone_names.index(name) for name in self.choosable]
        preference = self.backbone_gate.preference(every, among) if self.training else None
        return self.backbone_gate(conditioning, taken), taken, preference

    def _chosen(self, batch: ECGBatch, x_BCT: Tensor, taken: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Tokens of the backbones that every record takes, and F_m (B, K, D) with zeros where a record does not take one."""
        features, columns = {}, []
        for name, by_record in zip(self.backbone_names, taken.unbind(1), strict=True):
            rows = by_record.nonzero()[:, 0]
            if len(rows) == len(x_BCT):
                features[name] = self._features(name, batch, x_BCT)
                columns.append(self.multi_model.pooled(name, features[name]))
                continue
            columns.append(x_BCT.new_zeros(len(x_BCT), self.config.width))
            if len(rows):
                pooled = self.multi_model.pooled(name, self._features(name, batch, x_BCT, rows))
                columns[-1][rows] = pooled.to(x_BCT.dtype)
        return features, torch.stack(columns, 1)

    def _head(self, heads: nn.Module, task: Task, features: Tensor, summary: Tensor) -> Tensor:
        prediction = heads[task.name](features).float()  # type: ignore[index]
        if task.kind != "multiclass":
            prediction = prediction.squeeze(-1)
        if task.name == "rr" and self.config.late_rr:
            # The head learns a correction to the detector's median, which is already within milliseconds.
            median = summary[:, 0]
            start = (median - self.target_mean["rr"]) / self.target_std["rr"]
            prediction = prediction + torch.where(median > 0, start, 0.0)
        return prediction

    def _mean(self, opinions: Sequence[Tensor]) -> Tensor:
        """What is predicted of one task, from the opinion on the fused features and those of the late backbones."""
        fused, *late = opinions
        if not late:
            return fused
        share = self.config.late_share
        return (1 - share) * fused + share * torch.stack(late).mean(0)

    def _standardised(self, name: str, values: Tensor) -> Tensor:
        # Bounded, so that one electrode fault of 10 mV does not saturate every gate.
        mean, std = self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_std")
        return ((values - mean) / std).clamp(-5, 5)

    def in_units(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions as a user reads them: ms and years, probabilities of female / abnormal / each class."""
        values = {}
        for task in (task for task in self.tasks if task.name in predictions):
            raw = predictions[task.name].float()
            if task.kind == "regression":
                values[task.name] = raw * self.target_std[task.name] + self.target_mean[task.name]
            else:
                values[task.name] = raw.sigmoid() if task.kind == "binary" else raw.softmax(-1)
        return values


def equal_weights(by_expert: Tensor) -> Tensor:
    """In place of g_p where there is no gate: (B, P, E) from the experts' outputs (B, P, E, D)."""
    return torch.full(by_expert.shape[:3], 1 / by_expert.shape[2], device=by_expert.device)


def fuse(F_m: Tensor | None, F_periodic: Tensor | None, alpha_k: Tensor | None, alpha: Tensor | None) -> Tensor:
    """Eq. 4: F_fused = [alpha_m F_m, alpha_p F_periodic], with F_m weighed over its backbones first.

    Args:
        F_m: (B, K, D), None where that path is left out; then the other path is all there is.
        F_periodic: (B, P, D), or None.
        alpha_k: (B, P, K), weights of the backbones; with F_m.
        alpha: (B, P, 2), weights of the paths; with both. All are scaled by the number of choices, so that equal weights
            are 1; with `backbones_per_record`, K over the number that a record takes.

    Returns:
        (B, P, (K + 1) D), or the part of the path that is there.
    """
    parts = []
    weights = None if alpha is None else alpha * alpha.shape[-1]
    if F_m is not None and alpha_k is not None:
        weights_k = alpha_k.to(F_m.dtype) * alpha_k.shape[-1]
        multi = (weights_k[..., None] * F_m[:, None]).flatten(2)
        parts.append(multi if weights is None else weights[..., :1].to(multi.dtype) * multi)
    if F_periodic is not None:
        parts.append(F_periodic if weights is None else weights[..., 1:].to(F_periodic.dtype) * F_periodic)
    return torch.cat(parts, -1)
