"""An interrupted run goes on by the same command, on another number of workers and at another ZeRO stage too."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from jobs import job, running
from prepared_examples import simulated_and_prepared

pytestmark = [pytest.mark.distributed, pytest.mark.ray, pytest.mark.long]

EPOCHS, LOG_EVERY = 6, 2


def test_an_interrupted_run_goes_on_in_another_layout(tmp_path: Path) -> None:
    data = simulated_and_prepared(tmp_path)
    options = [
        "tiny",
        "--data",
        str(data),
        "--run",
        "k",
        "--storage",
        str(tmp_path / "runs"),
        "--pretraining.epochs",
        "0",
        "--training.epochs",
        str(EPOCHS),
        "--training.log-every",
        str(LOG_EVERY),
    ]
    # Without MOMENT there is nothing to embed, and starting takes less time.
    options += ["--backbones.2.mode", "full"]
    with running(tmp_path / "first.log", "train", *options) as run:
        run.wait_for(f"epoch 2/{EPOCHS}  validation")
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 130, run.text()
        assert "SIGINT: left, saved at step" in run.text()
    assert not (tmp_path / "runs" / "k" / "model").exists()

    # The rest goes on one worker at another stage, from the part of the checkpoint that any layout reads.
    said = job("train", *options, "--training.num-workers", "1", "--training.zero-stage", "3")
    assert "another layout: config.training.num_workers: 2 -> 1; config.training.zero_stage: 1 -> 3" in said
    found = re.search(r"resuming at epoch (\d+)", said)
    assert found, said
    first = int(found.group(1))
    assert first >= 3
    epochs = range(1, EPOCHS + 1)
    assert [f"epoch {n}/{EPOCHS}  validation" in said for n in epochs] == [n >= first for n in epochs]
    check_curves(tmp_path / "runs")
    metrics = json.loads((tmp_path / "runs" / "k" / "report" / "metrics.json").read_text())
    assert metrics["tasks"]["rr"]["n"] > 0


def check_curves(storage: Path) -> None:
    """Steps and validations that were made again after a restart are in MLflow once, and none is missing."""
    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow.db")
    run_id = json.loads((storage / "k" / "mlflow.json").read_text())["run_id"]
    validated = [each.step for each in client.get_metric_history(run_id, "validation/score")]
    per_epoch = validated[0]
    assert validated == [n * per_epoch for n in range(1, EPOCHS + 1)]
    logged = [each.step for each in client.get_metric_history(run_id, "train/loss_rr")]
    assert logged == sorted({*range(LOG_EVERY, EPOCHS * per_epoch, LOG_EVERY), EPOCHS * per_epoch})
