"""What trainings add up to, from measured steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ecgmoe.config import RESIDUAL_NETWORK, RunConfig
from ecgmoe.training.config import PretrainingConfig
from ecgmoe.tuning import estimate
from ecgmoe.tuning.estimate import Measured, together
from finished_runs import CONFIG
from prepared_examples import simulated_and_prepared

ROWS = {"train": 3200, "validation": 100}


def hours(configs: dict[str, RunConfig], data: Path, patch: pytest.MonkeyPatch) -> float:
    """Of six trainings each, and six pre-trainings; a step takes a second times the number of backbones."""
    found = {
        name: Measured(step_s=len(config.backbones), forward_s=0.0, parameters=100, trained=10)
        for name, config in configs.items()
    }
    patch.setattr(estimate, "measure", lambda *_: found)
    return together(configs, dict.fromkeys(configs, 6), str(data), {}, ROWS, pretrainings=6).worker_hours


def test_a_shared_pretraining_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulated_and_prepared(tmp_path, patients=10, studies=12)
    training = replace(CONFIG.training, epochs=5, global_batch=32, num_workers=1)
    plain = replace(CONFIG, backbones=(*CONFIG.backbones, RESIDUAL_NETWORK), training=training)
    wanted = replace(plain, pretraining=PretrainingConfig(backbones=(RESIDUAL_NETWORK.name,), epochs=20))
    small = replace(wanted, backbones=wanted.backbones[1:])
    other = replace(wanted, training=replace(training, seed=7))
    # 100 steps an epoch, of 3 and 2 seconds.
    assert hours({"plain": plain}, data, monkeypatch) * 3600 == pytest.approx(6 * 5 * 300)
    assert hours({"one": wanted}, data, monkeypatch) * 3600 == pytest.approx(6 * (5 + 20) * 300)
    # By the faster one: the pre-training is of the residual network alone.
    both = hours({"one": wanted, "two": small}, data, monkeypatch)
    assert both * 3600 == pytest.approx(6 * (5 * 300 + 5 * 200 + 20 * 200))
    apart = hours({"one": wanted, "other": other}, data, monkeypatch)
    assert apart * 3600 == pytest.approx(2 * 6 * (5 + 20) * 300)
