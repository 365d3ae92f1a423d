"""The composite loss (paper, Eq. 5), exact for any cut of the global batch over ranks and micro-steps.

A mean per rank is wrong as soon as labels are missing. So each task's loss here is a local *sum* over labelled records
divided by the *global* weight of that task in the global batch, which is known from the labels before the first pass.
The caller multiplies by world size x accumulation, because DeepSpeed divides by both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.config import LossConfig
from ecgmoe.model.output import Output
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.tasks import Task


def task_weight(task: Task, labels: Tensor, statistics: TrainingStatistics) -> Tensor:
    """Weight of each record in a task's loss: 0 where the label is missing, else its class weight or 1; (B,)."""
    present = ~labels.isnan()
    if task.kind != "multiclass":
        return present.float()
    weights = torch.tensor(statistics.class_weights[task.name], device=labels.device)
    return weights[labels.nan_to_num().long()] * present


def task_loss_sum(task: Task, prediction: Tensor, labels: Tensor, statistics: TrainingStatistics) -> Tensor:
    """Weighted sum of a task's loss over the records of this pass; a scalar that is connected even with no label."""
    weight = task_weight(task, labels, statistics)
    # A missing label is replaced before the loss, not after: NaN times 0 is NaN, in the gradient too.
    target = labels.nan_to_num()
    if task.kind == "regression":
        target = (target - statistics.target_mean[task.name]) / statistics.target_std[task.name]
        each = nn.functional.smooth_l1_loss(prediction, target, reduction="none")
    elif task.kind == "binary":
        each = nn.functional.binary_cross_entropy_with_logits(prediction, target, reduction="none")
    else:
        each = nn.functional.cross_entropy(prediction, target.long(), reduction="none")
    # where, not a product: the loss of a masked record may be infinite.
    return torch.where(weight > 0, each * weight, 0.0).sum()


def info_nce_sum(
    z_m: Tensor,
    z_p: Tensor,
    patient: Tensor,
    all_m: Tensor,
    all_p: Tensor,
    all_patient: Tensor,
    first: int,
    temperature: float,
) -> Tensor:
    """Symmetric InfoNCE summed over the local records, negatives over the global batch.

    Args:
        z_m, z_p: projected F_m and F_periodic of the local records, (b, D).
        patient: (b,) patient ids; another record of the same patient is not a negative.
        all_m, all_p, all_patient: the same of the global batch, (B, D) and (B,), in global order.
        first: global position of the first local record.
        temperature: of the softmax.
    """
    position = torch.arange(first, first + len(z_m), device=z_m.device)
    same = patient[:, None] == all_patient[None]
    same[torch.arange(len(z_m), device=z_m.device), position] = False
    losses = []
    for anchor, others in ((z_m, all_p), (z_p, all_m)):
        similarity = nn.functional.normalize(anchor.float(), dim=-1) @ nn.functional.normalize(others.float(), dim=-1).T
        logits = (similarity / temperature).masked_fill(same, -torch.inf)
        losses.append(nn.functional.cross_entropy(logits, position, reduction="sum"))
    return (losses[0] + losses[1]) / 2


def load_imbalance(load_E: Tensor) -> Tensor:
    """Squared coefficient of variation of the experts' importance: 0 where all weigh alike, E - 1 for one alone.

    Shazeer et al., ICLR 2017 (arXiv 1701.06538), Eq. 6 and 7. The importance here is the mean gate over the records *and
    the tasks* of the global batch: an expert that serves one task alone is in use, and tasks stay free to differ.

    Args:
        load_E: mean gate of each expert, (E,), with a sum of 1.
    """
    # E sum(I^2) - 1, written without its cancellation.
    return len(load_E) * (load_E - 1 / len(load_E)).square().sum()


def expected_cost_sum(preference_BK: Tensor, cost_K: Tensor) -> Tensor:
    """Cost of the backbones that each record would choose if the gate drew one by its preference, summed over the records.

    What is chosen is the most preferred, through which no gradient goes; preferring cheap ones makes them the most preferred.

    Args:
        preference_BK: of the gate over the backbones, with sums of 1.
        cost_K: of each backbone; with a mean of 1, so that a record without preferences counts 1.
    """
    return (preference_BK * cost_K).sum()


def task_losses(
    output: Output, batch: ECGBatch, tasks: Sequence[Task], statistics: TrainingStatistics, totals: Mapping[str, float]
) -> dict[str, Tensor]:
    """Each task's share of the global batch loss that the records of this pass contribute, a mean over the model's opinions.

    Args:
        totals: sum of `task_weight` over the whole global batch, by task; 0 leaves the task at 0.
    """
    losses = {}
    for task in tasks:
        labels = batch.labels[task.name]
        each = [task_loss_sum(task, opinion[task.name], labels, statistics) for opinion in output.opinions]
        losses[task.name] = torch.stack(each).mean() / (totals[task.name] or 1.0)
    return losses


def composite(
    parts: Mapping[str, Tensor],
    loss: LossConfig,
    tasks: Sequence[Task],
    log_variance: Tensor | None,
    totals: Mapping[str, float],
    share: float,
) -> Tensor:
    """Eq. 5: the weighted sum of the task losses, lambda times the contrastive term, the balance of the experts, and the
    cost of the backbones.

    With learnt weights a task of variance exp(s) counts exp(-s) L + s / 2, half of exp(-s) L where it is a regression
    (Kendall et al., CVPR 2018, Eq. 7 and 10).

    Args:
        parts: this pass's share of each loss, by task name, "contrastive", "imbalance" and "cost".
        loss: weights.
        tasks: in the order of `log_variance`.
        log_variance: s of each task, (P,); None where weights are not learnt.
        totals: as in `task_losses`; a task without any label in the global batch adds nothing.
        share: of the global batch that this pass is, so that s / 2 is counted once.
    """
    terms = []
    for position, task in enumerate(tasks):
        part = parts[task.name]
        if log_variance is None:
            terms.append(loss.task_weights.get(task.name, 1.0) * part)
        else:
            s = log_variance[position]
            scale = 0.5 if task.kind == "regression" else 1.0
            terms.append(scale * (-s).exp() * part + share * s / 2 * (totals[task.name] > 0))
    weights = {
        "contrastive": loss.contrastive_weight,
        "imbalance": loss.load_balance_weight,
        "cost": loss.backbone_cost_weight,
    }
    terms += [weight * parts[name] for name, weight in weights.items() if name in parts]
    return torch.stack(terms).sum()
