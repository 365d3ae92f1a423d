"""The model can learn 32 records by heart: nothing between the inputs and the losses is cut off."""

from __future__ import annotations

import torch

from ecgmoe.model.config import ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.losses import task_losses, task_weight
from model_examples import TASKS, Probe, batch, statistics

STEPS = 340


def test_32_records_of_noise_with_random_labels_are_learnt() -> None:
    whole = batch(tuple(3 + number % 6 for number in range(32)), seed=2)
    torch.manual_seed(0)
    net = ECGMoE(
        ModelConfig(width=32, lora_rank=4, dropout=0.0, beat_samples=32),
        tasks=TASKS,
        widths={"probe": 6, "stored": 5},
        statistics=statistics(),
        live={"probe": Probe()},
    )
    totals = {task.name: float(task_weight(task, whole.labels[task.name], statistics()).sum()) for task in TASKS}
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses = task_losses(net(whole), whole, TASKS, statistics(), totals)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert {name: loss.item() for name, loss in losses.items() if loss > 0.02} == {}
    predicted = net.eval().in_units(net(whole).predictions)
    for name in ("rr", "age"):
        labels = whole.labels[name]
        assert (predicted[name] - labels).abs().mean() < 0.01 * labels.std()
