"""The driver is killed three times in the middle of an epoch: the same weights, bit for bit, and one curve in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from jobs import job, running
from prepared_examples import simulated_and_prepared

pytestmark = [pytest.mark.distributed, pytest.mark.long]

EPOCHS, STEPS, EVERY = 5, 4, 3
"""Steps of an epoch with 156 training records, and steps between checkpoints: none is where an epoch ends but the last."""
KILLED_AT = (2, 7, 14)
UNLIKE = {"train/records_per_s", "train/data_wait_share", "train/memory_gb"}
"""What depends on the clock or on the process."""

Curve = list[tuple[int, float]]


def curves(storage: Path, name: str) -> dict[str, Curve]:
    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow.db")
    run_id = json.loads((storage / name / "mlflow.json").read_text())["run_id"]
    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith(("train/", "validation/", "routing/"))]
    return {key: [(each.step, each.value) for each in client.get_metric_history(run_id, key)] for key in keys}


def test_three_killed_drivers_end_where_none_does(tmp_path: Path) -> None:
    data, storage = simulated_and_prepared(tmp_path), tmp_path / "runs"
    options = ["tiny", "--data", str(data), "--storage", str(storage), "--training.epochs", str(EPOCHS)]
    options += ["--training.checkpoint-every", str(EVERY), "--training.log-every", "1"]
    options += [part for number in (2, 3, 4) for part in (f"--backbones.{number}.mode", "full")]
    job("train", *options, "--run", "whole")
    for kill, step in enumerate(KILLED_AT):
        with running(tmp_path / f"{kill}.log", "train", *options, "--run", "killed") as run:
            run.wait_for(f"step {step}/{EPOCHS * STEPS}")
            workers, ray = run.descendants("RayTrainWorker"), run.descendants("ray::")
            assert workers
            run.process.kill()
            # What holds the model and the data follows its driver by itself; two small agents of Ray stay.
            _, alive = psutil.wait_procs(workers, timeout=60)
            assert not alive
            for each in psutil.wait_procs(ray, timeout=1)[1]:
                each.kill()
    said = job("train", *options, "--run", "killed")
    assert "resuming at epoch" in said
    models = [load_file(storage / name / "model" / "model.safetensors") for name in ("whole", "killed")]
    assert set(models[0]) == set(models[1])
    assert not [name for name, value in models[0].items() if not value.equal(models[1][name])]
    whole, killed = (curves(storage, name) for name in ("whole", "killed"))
    assert [step for step, _ in killed["train/loss_rr"]] == list(range(1, EPOCHS * STEPS + 1))
    assert {key: curve for key, curve in whole.items() if key not in UNLIKE} == {
        key: curve for key, curve in killed.items() if key not in UNLIKE
    }
