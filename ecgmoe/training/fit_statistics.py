"""Input statistics and target scaling of the training split."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ecgmoe.config import RunConfig
from ecgmoe.model.frontend import characteristics, rr_summary
from ecgmoe.model.statistics import TrainingStatistics, class_weights, target_scaling
from ecgmoe.model.trained_on import TrainedOn
from ecgmoe.pipeline.prepared import PreparedData, split_rows
from ecgmoe.training.loader import THREADS, BatchReader

SAMPLE_RECORDS = 2048
"""Records from which the input statistics are taken: the standard error of a mean is then 2 % of the spread."""
MINIMUM_SPREAD = 1e-3


def training_statistics(data: PreparedData, labels: pa.Table, config: RunConfig) -> TrainingStatistics:
    """Statistics of the training split: targets over all of it, inputs over its first records.

    Records lie in the order of a hash, so the first ones are a random sample, and the same in every call.
    """
    tasks, rows = config.task_table(), split_rows(labels, "train")
    reader = BatchReader(PreparedData(data.store.root), labels, (), groups_kept=2 * THREADS)
    seen: list[tuple[Tensor, Tensor]] = []
    for batch in reader.ahead(np.array_split(rows[:SAMPLE_RECORDS], max(1, min(len(rows), SAMPLE_RECORDS) // 64)), 2):
        seen.append((characteristics(batch.signal, batch.r_peaks), rr_summary(batch.r_peaks)))
    inputs, summaries = (torch.cat(values) for values in zip(*seen, strict=True))
    # A record with fewer than two beats has no RR summary, only zeros.
    summaries = summaries[summaries[:, 0] > 0]
    train = labels.take(pa.array(rows))
    mean, std = target_scaling(train, tasks)
    return TrainingStatistics(
        characteristics_mean=_values(inputs.mean(0)),
        characteristics_std=_values(inputs.std(0, correction=0).clamp(min=MINIMUM_SPREAD)),
        summary_mean=_values(summaries.mean(0)) if len(summaries) else (0.0,) * 6,
        summary_std=_values(summaries.std(0, correction=0).clamp(min=MINIMUM_SPREAD)) if len(summaries) else (1.0,) * 6,
        target_mean=mean,
        target_std=std,
        class_weights=class_weights(train, tasks, config.loss.class_balance),
    )


def trained_on(data: PreparedData, labels: pa.Table, config: RunConfig) -> TrainedOn:
    """What the model of a run on these data says of them."""
    train = labels.take(pa.array(split_rows(labels, "train")))
    return TrainedOn(
        dataset=data.manifest["dataset"],
        records=len(train),
        patients=len(train["patient_id"].unique()),
        labels={task.name: len(train) - train[task.label].null_count for task in config.task_table()},
        labels_sha256=data.manifest["labels_sha256"],
        preprocessing_version=data.manifest["prepare_version"],
    )


def _values(tensor: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in tensor)
