"""How far attribution adds up on records of a prepared folder, and what is left of it where the weights are shuffled.

Completeness: parts of a prediction should add up to what it changes by from the baseline to the record (Sundararajan,
Taly and Yan, ICML 2017). Randomised weights: a map that stays the same would tell of the ECG alone, not of the model
(Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018).
"""

from __future__ import annotations

import copy
import time
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from ecgmoe.ecg.quality_policy import QualityPolicy, apply_policy
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.inference.attribution import Attribution, attribute
from ecgmoe.inference.predictor import Predictor
from ecgmoe.pipeline.prepared import PreparedData, row_groups, split_group, split_rows

M = TypeVar("M", bound=nn.Module)

ALL_STEPS = (16, 32, 64, 128, 256)
SHUFFLED_STEPS = 32
"""Of the maps that are compared."""


def attribution_benchmark(
    model: str, data: str, *, records: int, steps: tuple[int, ...] = ALL_STEPS, split: str = "test"
) -> dict[str, Any]:
    """Measure on one thread of this machine's CPU, or on its GPU.

    Args:
        model: model folder.
        data: prepared folder.
        records: of the split, evenly spread over it.
        steps: numbers of gradients, `SHUFFLED_STEPS` among them.
        split: of the folder.

    Returns:
        By task and number of steps: |error| in the task's unit, its share of |change|, how many explanations warn, seconds
        per ECG. By task: the rank correlation of maps with those of shuffled weights, with and without their signs.
    """
    torch.set_num_threads(1)
    predictor, chosen = Predictor(model), some_records(data, records, split)
    shuffled = copy.copy(predictor)
    shuffled.model = with_shuffled_weights(predictor.model)
    result: dict[str, Any] = {"records": len(chosen), "tasks": {}}
    for task in predictor.tasks:
        by_steps = {}
        for count in steps:
            started = time.perf_counter()
            found = [attribute(predictor, record, task, steps=count) for record in chosen]
            seconds = (time.perf_counter() - started) / len(chosen)
            by_steps[count] = {**completeness(found), "seconds_per_ecg": seconds}
            if count == SHUFFLED_STEPS:
                others = [
                    attribute(shuffled, record, task, class_name=each.class_name, steps=count)
                    for record, each in zip(chosen, found, strict=True)
                ]
                sanity = likeness(found, others)
        result["tasks"][task.name] = {
            "unit": found[0].unit,
            "median_change": float(np.median([abs(each.change) for each in found])),
            "steps": by_steps,
            "shuffled_weights": sanity,
        }
    return result


def completeness(found: list[Attribution]) -> dict[str, float]:
    """By how much the parts of several explanations miss their change: medians and 90th percentiles."""
    error = np.array([abs(each.error) for each in found])
    change = np.array([abs(each.change) for each in found])
    share = np.divide(error, change, out=np.zeros_like(error), where=change > 0)
    return {
        "error": float(np.median(error)),
        "error_90": float(np.quantile(error, 0.9)),
        "share": float(np.median(share)),
        "share_90": float(np.quantile(share, 0.9)),
        "warned": float(np.mean([each.large_error for each in found])),
    }


def likeness(found: list[Attribution], others: list[Attribution]) -> dict[str, float]:
    """Median Spearman correlation over the samples of two maps of each record."""
    pairs = [(one.samples.ravel(), other.samples.ravel()) for one, other in zip(found, others, strict=True)]
    return {
        "signed": float(np.median([spearmanr(one, other).statistic for one, other in pairs])),
        "magnitude": float(np.median([spearmanr(abs(one), abs(other)).statistic for one, other in pairs])),
    }


def with_shuffled_weights(model: M, seed: int = 0) -> M:
    """A copy with the entries of each weight in another order, so that sizes stay what training made them."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view_as(weight))
    return other


def some_records(data: str, count: int, split: str) -> list[UsableRecord]:
    """Records of a prepared folder, evenly spread over a split.

    Raises:
        ValueError: the split has fewer.
    """
    prepared = PreparedData(data)
    labels = prepared.labels()
    rows = split_rows(labels, split)
    if len(rows) < count:
        raise ValueError(f"the split {split} of {data} has {len(rows)} records: ask for no more with --size")
    groups, study_ids, found = row_groups(labels), labels["study_id"].to_numpy(), []
    for row in rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]:
        group = prepared.row_group(*split_group(int(groups[row])))
        at = int(np.flatnonzero(group.study_id == study_ids[row])[0])
        signal = group.signal[at].copy()
        quality = apply_policy(signal, QualityPolicy())[1]
        found.append(UsableRecord(signal=signal, r_peaks=group.r_peaks[at].copy(), quality=quality))
    return found
