"""A training that is killed ends with the weights of one that is not, bit for bit, and with the same curve in MLflow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from distributed import run_distributed
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.checkpoint_store import CheckpointStore
from kill_examples import ENDED, LOG_EVERY_STEP, SURVIVED, Kill, table, train_through
from prepared_examples import simulated_and_prepared
from resume_examples import run_jobs
from training_examples import job_of

pytestmark = [pytest.mark.distributed, pytest.mark.ray]

STEPS = 4
"""Of an epoch, with 156 training records."""
EVERY = 3
"""Steps between checkpoints: none but the last falls on the end of an epoch."""
UNLIKE = {"train/records_per_s", "train/data_wait_share", "train/memory_gb"}
"""What depends on the clock or on the process."""

Curve = list[tuple[int, float]]


def curves(uri: str, run_id: str) -> dict[str, Curve]:
    client = MlflowClient(tracking_uri=uri)
    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith(("train/", "validation/", "routing/"))]
    kept = [key for key in keys if key not in UNLIKE]
    return {key: [(each.step, each.value) for each in client.get_metric_history(run_id, key)] for key in kept}


def killed_beside_whole(
    folder: Path, kinds: Sequence[str], epochs: int, *more: str, seed: int = 0
) -> tuple[list[Kill], str]:
    """Train with kills under Ray, and without any in a process group of its own; compare weights and curves."""
    data, runs = simulated_and_prepared(folder), folder / "runs"
    options = ["tiny", "--data", str(data), "--storage", str(runs), "--run", "killed", "--training.epochs", str(epochs)]
    options += ["--training.checkpoint-every", str(EVERY), *LOG_EVERY_STEP, "--pretraining.epochs", "0", *more]
    options += [part for number in (2, 3, 4) for part in (f"--backbones.{number}.mode", "full")]
    kills, said = train_through(options, runs / "killed", kinds, seed=seed, logs=folder)
    assert [kill.kind for kill in kills] == list(kinds)
    # A kill costs the steps since the last checkpoint; what it interrupts may not be told of yet.
    assert all(kill.step - kill.resumed <= EVERY + 1 for kill in kills), table(kills)

    stored = json.loads((runs / "killed" / "config.json").read_text())
    job = job_of(from_dict(RunConfig, stored["config"]), data)
    job["run"] = str(folder / "whole")
    job["mlflow_run_id"] = tracking.create_run(job["tracking_uri"], "whole", {}, {}, str(folder / "artifacts"))
    run_distributed(run_jobs, 2, [{"job": job, "stops": []}])
    best = CheckpointStore(Store(folder / "whole")).best()
    assert best is not None
    whole = load_file(folder / "whole" / "checkpoints" / best.name / "model" / "model.safetensors")
    killed = load_file(runs / "killed" / "model" / "model.safetensors")
    assert set(whole) == set(killed)
    assert not [name for name, value in whole.items() if not value.equal(killed[name])]
    expected = curves(job["tracking_uri"], job["mlflow_run_id"])
    found = json.loads((runs / "killed" / "mlflow.json").read_text())
    assert curves(found["tracking_uri"], found["run_id"]) == expected
    assert [step for step, _ in expected["train/loss_rr"]] == list(range(1, epochs * STEPS + 1))
    return kills, said


def check_two_kills(kills: Sequence[Kill], said: str) -> None:
    print(table(kills))
    # SIGTERM saves what is there.
    assert kills[1].resumed >= kills[1].step
    assert "SIGTERM: left, saved at step" in said
    assert "start again from the last checkpoint, 1 of 3" in said


def test_a_killed_worker_and_sigterm(tmp_path: Path) -> None:
    check_two_kills(*killed_beside_whole(tmp_path, ("checkpoint", "term"), 4))


@pytest.mark.long
def test_three_kills(tmp_path: Path) -> None:
    check_two_kills(*killed_beside_whole(tmp_path, ("checkpoint", "term", "driver"), 6))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_frozen_rank(tmp_path: Path) -> None:
    kills, said = killed_beside_whole(tmp_path, ("hang",), 8, "--training.hang-timeout-s", "20")
    print(table(kills))
    (stacks,) = (tmp_path / "runs" / "killed" / "faults").glob("hanging-*-rank-*.txt")
    # The frozen rank can write nothing; the other one does, and says of which there was no sign of life.
    assert "thread " in stacks.read_text()
    assert "HANGING: rank" in said
    assert "no sign of life for" in said
    assert f"where its threads stand: {stacks}" in said


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
