"""Time per real ECG of a trained model beside that of a peer, on one thread of this machine's CPU.

From the int16 waveform in memory to predictions in their units, every backbone computed that the record is fused with. With
`backbones_per_record` the time depends on what the gates have learnt to choose, so that untrained models would say little.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch

from ecgmoe.allocator import keep_freed_memory
from ecgmoe.benchmark.paired import interleaved, ratio
from ecgmoe.inference.predictor import Predictor
from ecgmoe.model.batch import ECGBatch
from ecgmoe.pipeline.prepared import PreparedData, split_rows
from ecgmoe.training.loader import BatchReader

ONE_BY_ONE = 64
"""Records of a round, predicted one at a time."""
TOGETHER, ROUND = 32, 4
"""Records of a batch, batches of a round."""


def trained_benchmark(model: str, peer: str, data: str, *, pairs: int = 10) -> dict[str, Any]:
    """Alternate both over the same records of the test split.

    Args:
        model: folder of a trained model.
        peer: another one.
        data: prepared folder.
        pairs: rounds that count.

    Returns:
        Milliseconds per record of each (medians), how many times as long the peer takes, and the share of these records
        for which each backbone was computed.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    models = [Predictor(each, torch.device("cpu"), untrained=True) for each in (model, peer)]
    prepared = PreparedData(data)
    labels = prepared.labels()
    rows = np.random.default_rng(0).permutation(split_rows(labels, "test"))[: max(ONE_BY_ONE, TOGETHER * ROUND)]
    reader = BatchReader(prepared, labels, (), groups_kept=len(rows))
    result: dict[str, Any] = {
        "records": len(rows),
        "pairs": pairs,
        "parameters": {
            name: sum(parameter.numel() for parameter in each.model.parameters())
            for name, each in zip(("model", "peer"), models, strict=True)
        },
    }
    for size in (1, TOGETHER):
        some = rows[:ONE_BY_ONE] if size == 1 else rows
        batches = [reader.read(part) for part in np.array_split(some, -(-len(some) // size))]
        ours, theirs = interleaved([partial(_seconds, each, batches) for each in models], pairs)
        result[f"batch_{size}"] = {
            "ms_per_record": {
                "model": 1e3 * statistics.median(ours) / len(some),
                "peer": 1e3 * statistics.median(theirs) / len(some),
            },
            "times_as_long": asdict(ratio(theirs, ours)),
        }
    result["computed"] = {name: _computed(each, batches) for name, each in zip(("model", "peer"), models, strict=True)}
    return result


def _seconds(model: Predictor, batches: list[ECGBatch]) -> float:
    started = time.perf_counter()
    for batch in batches:
        model(batch)
    return time.perf_counter() - started


def _computed(model: Predictor, batches: list[ECGBatch]) -> dict[str, float]:
    """By backbone the share of the records that are fused with it."""
    names = model.model.backbone_names
    weights = [model.output(batch).routing.backbones for batch in batches]
    shares = [torch.ones(len(names)) if each is None else (each > 0).any(1).float().mean(0) for each in weights]
    records = torch.tensor([float(len(batch.study_id)) for batch in batches])
    mean = records @ torch.stack(shares) / records.sum()
    return dict(zip(names, mean.tolist(), strict=True))
