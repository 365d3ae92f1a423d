"""Where the predictions of one record came from: gates over the experts, weights of its beats.

Legend: N beats that the model read, E experts, P tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.ecg.record import SAMPLING_RATE_HZ
from ecgmoe.inference.predictor import Predictor
from ecgmoe.inference.record_table import batch_of
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.frontend import cut_beats
from ecgmoe.model.output import Routing
from ecgmoe.tasks import Task

Floats = npt.NDArray[np.floating]
LIKELIEST = 3
"""Classes of a multiclass task that are told."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a model says of one record, and what it looked at. Weights are no causes: they do not say why.

    Attributes:
        tasks: those of the model, in their order.
        experts: names; empty where the model has none.
        predictions: by task: () ms or years, () probability of the class 1, or (classes,) probabilities.
        gates: by task (E,), g_p of Eq. 3; empty without experts.
        periodic_share: by task, alpha_p of Eq. 4, the weight of the beats beside that of the backbones; empty where the
            model has one path alone.
        windows_s: (N, 2) beginning and end of what the model cut out around each R peak, in s; that of the first and the
            last beat may pass the ends of the record, where the model holds the first or last sample.
        beat_weights: by task (N,), sum over the experts of gate x attention: the weights by which the beats' values enter
            F_periodic of Eq. 4, as the mean of the attention's heads. Empty where the model has no periodic path. What a
            rhythm expert says of a beat has also seen the beats around it.
        no_beat_weight: by task, what the learnt "no beat" token has of these weights; with it they sum to 1.
        random_backbones: backbones that started from random weights.
        late_backbones: backbones with heads of their own: gates and beats say nothing of what these predict.
        late_share: what those heads have of each prediction.
    """

    tasks: tuple[Task, ...]
    experts: tuple[str, ...]
    predictions: dict[str, Floats]
    gates: dict[str, Floats]
    periodic_share: dict[str, float]
    windows_s: Floats
    beat_weights: dict[str, Floats]
    no_beat_weight: dict[str, float]
    random_backbones: tuple[str, ...]
    late_backbones: tuple[str, ...]
    late_share: float

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each prediction as a user reads them; a multiclass task has several lines."""
        return [(task.name, text) for task in self.tasks for text in _in_words(task, self.predictions[task.name])]


def _in_words(task: Task, value: Floats) -> list[str]:
    if task.kind == "regression":
        return [f"{value:.0f} {task.unit}"]
    if task.kind == "binary":
        return [f"probability of {task.classes[1]} {_probability(float(value))}"]
    best = np.argsort(-value, kind="stable")[:LIKELIEST]
    return [f"{task.classes[index]} {_probability(value[index])}" for index in best]


def _probability(value: float) -> str:
    """Two digits, but none that look like certainty."""
    return "> 0.99" if value > 0.99 else "< 0.01" if value < 0.01 else f"{value:.2f}"


def explain(predictor: Predictor, record: UsableRecord) -> Explanation:
    """Predict one record, and keep where each prediction came from."""
    batch = batch_of([record])
    output = predictor.output(batch)
    config, routing = predictor.model.config, output.routing
    names = [task.name for task in predictor.tasks]
    gates = _by_task(routing.experts, names)
    paths = _by_task(routing.paths, names)
    beats = beat_windows(batch, config)
    weights = _by_task(_beat_weights(routing), names)
    return Explanation(
        tasks=predictor.tasks,
        experts=config.expert_names,
        predictions={name: value[0] for name, value in predictor.in_units(output).items()},
        gates=gates,
        periodic_share={name: float(alpha[1]) for name, alpha in paths.items()},
        windows_s=beats if weights else beats[:0],
        # A record without beats has one of padding, whose weight is 0.
        beat_weights={name: each[: len(beats)] for name, each in weights.items()},
        no_beat_weight={name: float(each[-1]) for name, each in weights.items()},
        random_backbones=predictor.random_backbones,
        late_backbones=config.late_backbones,
        late_share=config.late_share,
    )


def beat_windows(batch: ECGBatch, config: ModelConfig) -> Floats:
    """Beginning and end in s of each beat that the model cuts out of a batch of one record: (N, 2)."""
    beats = cut_beats(to_millivolt(batch.signal), batch.r_peaks, config.beat_samples, config.max_beats)
    before, after = beats.timing[0, :, 4].numpy(), beats.timing[0, :, 5].numpy()
    at = batch.r_peaks[0, : config.max_beats].numpy() / SAMPLING_RATE_HZ
    return np.stack([at - before, at + after], 1)[beats.mask[0].numpy()]


def _beat_weights(routing: Routing) -> torch.Tensor | None:
    """(1, P, N + 1), "no beat" last; None in a model without periodic path, such as the mixtures."""
    if routing.beats is None or routing.experts is None:
        return None
    return torch.einsum("bpe,bpen->bpn", routing.experts.float(), routing.beats.float())


def _by_task(weights: torch.Tensor | None, names: list[str]) -> dict[str, Floats]:
    """Of a batch of one record; weights that the tasks share (P = 1) are those of each."""
    if weights is None:
        return {}
    rows = weights[0].float().expand(len(names), -1).cpu().numpy()
    return dict(zip(names, rows, strict=True))
