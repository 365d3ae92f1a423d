"""What each variant costs: parameters, FLOPs and activation memory, counted on one batch."""

from __future__ import annotations

from typing import Any

import torch

from ecgmoe.config import RunConfig
from ecgmoe.ecg.record import N_LEADS, N_SAMPLES
from ecgmoe.flops import count_flops
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.frontend import CHARACTERISTICS, SUMMARY
from ecgmoe.model.statistics import TrainingStatistics
from ecgmoe.tasks import Task
from ecgmoe.training.activations import kept_bytes
from ecgmoe.training.build import build_backbones, build_model
from ecgmoe.variants import VARIANTS, variant

BEAT = 400
"""Samples from beat to beat: 75 per minute."""


def variants_benchmark(config: RunConfig, records: int = 32) -> dict[str, Any]:
    """Count every variant of a configuration, and each backbone alone, on one batch of noise.

    Args:
        config: its backbones' modes decide what trains and what comes from the cache (and then costs nothing here).
        records: of the batch.

    Returns:
        By variant: trained and all parameters, millions of FLOPs per record of a forward pass (matrix products and
        convolutions, counted by torch), and MB per record that a training pass keeps for its backward pass.
    """
    names = [*VARIANTS, *(f"single_{each.name}" for each in config.backbones)]
    return {"records": records, "variants": {name: _count(variant(name, config), records) for name in names}}


def _count(config: RunConfig, records: int) -> dict[str, float]:
    backbones = build_backbones(config)
    model = build_model(config, neutral_statistics(config.task_table()), backbones)
    batch = noise(records)
    batch.features = {
        each.name: torch.randn(records, backbones[each.name].tokens, backbones[each.name].width)
        for each in config.cached
    }
    flops = count_flops(lambda: model.eval()(batch))
    parameters = list(model.parameters())
    return {
        "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "parameters": sum(p.numel() for p in parameters),
        "forward_mflop_per_record": flops / records / 1e6,
        "activation_mb_per_record": kept_bytes(lambda: model.train()(batch)) / records / 1e6,
    }


def noise(records: int) -> ECGBatch:
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(records, N_LEADS, N_SAMPLES, generator=generator) * 200
    return ECGBatch(
        signal=signal.to(torch.int16),
        r_peaks=torch.arange(BEAT // 2, N_SAMPLES, BEAT, dtype=torch.int32).expand(records, -1),
        study_id=torch.arange(records),
        patient_id=torch.arange(records),
    )


def neutral_statistics(tasks: tuple[Task, ...]) -> TrainingStatistics:
    """Statistics that leave everything as it is."""
    regression = [task.name for task in tasks if task.kind == "regression"]
    return TrainingStatistics(
        characteristics_mean=(0.0,) * len(CHARACTERISTICS),
        characteristics_std=(1.0,) * len(CHARACTERISTICS),
        summary_mean=(0.0,) * len(SUMMARY),
        summary_std=(1.0,) * len(SUMMARY),
        target_mean=dict.fromkeys(regression, 0.0),
        target_std=dict.fromkeys(regression, 1.0),
        class_weights={task.name: (1.0,) * len(task.classes) for task in tasks if task.kind == "multiclass"},
    )
