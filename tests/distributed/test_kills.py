"""A training that is killed ends with the weights of one that is not, bit for bit, and with the same curve in MLflow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from jobs import job
from kill_examples import ENDED, LOG_EVERY_STEP, SURVIVED, Kill, table, train_through
from prepared_examples import simulated_and_prepared

pytestmark = pytest.mark.distributed

STEPS = 4
"""Of an epoch, with 156 training records."""
UNLIKE = {"train/records_per_s", "train/data_wait_share", "train/memory_gb"}
"""What depends on the clock or on the process."""

Curve = list[tuple[int, float]]


def curves(storage: Path, name: str) -> dict[str, Curve]:
    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow.db")
    run_id = json.loads((storage / name / "mlflow.json").read_text())["run_id"]
    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith(("train/", "validation/", "routing/"))]
    return {key: [(each.step, each.value) for each in client.get_metric_history(run_id, key)] for key in keys}


def killed_beside_whole(
    folder: Path, kinds: Sequence[str], epochs: int, *more: str, seed: int = 0
) -> tuple[list[Kill], str]:
    """Train once without and once with kills, and compare weights and curves."""
    data, storage = simulated_and_prepared(folder), folder / "runs"
    options = ["tiny", "--data", str(data), "--storage", str(storage), "--training.epochs", str(epochs)]
    # No checkpoint but the last falls on the end of an epoch.
    options += ["--training.checkpoint-every", "3", *LOG_EVERY_STEP, *more]
    options += [part for number in (2, 3, 4) for part in (f"--backbones.{number}.mode", "full")]
    job("train", *options, "--run", "whole", timeout=600)
    kills, said = train_through([*options, "--run", "killed"], storage / "killed", kinds, seed=seed, logs=folder)
    assert [kill.kind for kill in kills] == list(kinds)
    models = [load_file(storage / name / "model" / "model.safetensors") for name in ("whole", "killed")]
    assert set(models[0]) == set(models[1])
    assert not [name for name, value in models[0].items() if not value.equal(models[1][name])]
    whole, killed = (curves(storage, name) for name in ("whole", "killed"))
    assert [step for step, _ in killed["train/loss_rr"]] == list(range(1, epochs * STEPS + 1))
    assert {key: curve for key, curve in whole.items() if key not in UNLIKE} == {
        key: curve for key, curve in killed.items() if key not in UNLIKE
    }
    return kills, said


def test_three_kills_and_a_frozen_rank(tmp_path: Path) -> None:
    kinds = ("checkpoint", "hang", "term", "driver")
    kills, said = killed_beside_whole(tmp_path, kinds, 8, "--training.hang-timeout-s", "20")
    print(table(kills))
    by_kind = {kill.kind: kill for kill in kills}
    # SIGTERM saves what is there: at most the step during which it came is not told of yet.
    assert by_kind["term"].resumed >= by_kind["term"].step
    assert "SIGTERM: left, saved at step" in said
    # A kill costs the steps since the last checkpoint, every third step.
    assert all(kill.step - kill.resumed <= 3 + 1 for kill in kills)
    assert "WORKER" in said
    assert "start again from the last checkpoint, 1 of 3" in said
    stacks = list((tmp_path / "runs" / "killed" / "faults").glob("hanging-*-rank-*.txt"))
    # The frozen rank can write nothing; the other one does, and says of which there was no sign of life.
    assert len(stacks) == 1
    assert "thread " in stacks[0].read_text()
    assert "HANGING: rank" in said
    assert "no sign of life for" in said


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_twenty_random_kills(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    kinds = [str(kind) for kind in generator.permutation([*SURVIVED[:2], *ENDED] * 5)]
    kills, _ = killed_beside_whole(tmp_path, kinds, 40, "--training.max-failures", "20", seed=7)
    print(table(kills))
    for kind in sorted(set(kinds)):
        lost = [kill.lost_s for kill in kills if kill.kind == kind]
        print(f"{kind}: median {np.median(lost):.1f} s lost, most {max(lost):.1f} s")
    assert all(kill.step - kill.resumed <= 3 + 1 for kill in kills)
