"""A node is lost in the middle of a training: the run goes on with the workers that are left, and ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from jobs import running
from prepared_examples import simulated_and_prepared
from ray_nodes import ray_nodes

pytestmark = [pytest.mark.distributed, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1800)]

EPOCHS = 12


@pytest.mark.parametrize("cut", ["power", "link"])
def test_a_lost_node_costs_the_steps_since_the_last_checkpoint(tmp_path: Path, cut: str) -> None:
    """Its power: connections break at once. Its link: nothing says so, and Ray has to notice."""
    data = simulated_and_prepared(tmp_path)
    options = ["tiny", "--data", str(data), "--run", "k", "--storage", str(tmp_path / "runs")]
    options += ["--pretraining.epochs", "0", "--training.epochs", str(EPOCHS), "--training.min-workers", "1"]
    # Nothing to embed: that is not what is tested.
    options += [part for number in (2, 3, 4) for part in (f"--backbones.{number}.mode", "full")]
    with (
        ray_nodes(tmp_path) as nodes,
        running(tmp_path / "log", "train", *options, environment=nodes.environment) as run,
    ):
        second = nodes.workers[0]
        if cut == "link" and second.namespace is None:
            pytest.skip("no network namespace can be made here")
        run.wait_for(f"epoch 2/{EPOCHS}  validation")
        if cut == "power":
            second.cut_power()
        else:
            second.unplug()
        lost = time.monotonic()
        run.wait_for("resuming at epoch", timeout=400)
        print(f"{cut}: {time.monotonic() - lost:.0f} s until the run went on", flush=True)
        assert run.wait(900) == 0, run.text()
    assert f"epoch {EPOCHS}/{EPOCHS}  validation" in run.text()
    metrics = json.loads((tmp_path / "runs" / "k" / "report" / "metrics.json").read_text())
    assert metrics["tasks"]["rr"]["n"] > 0


def test_a_node_that_is_taken_away_costs_a_restart(tmp_path: Path) -> None:
    """Ray tells of it before: a checkpoint is saved once, and training goes on until the node is gone."""
    data = simulated_and_prepared(tmp_path)
    options = ["tiny", "--data", str(data), "--run", "k", "--storage", str(tmp_path / "runs")]
    # Without that checkpoint, the last one would be that of an epoch's end.
    options += [
        "--pretraining.epochs",
        "0",
        "--training.epochs",
        "400",
        "--training.min-workers",
        "1",
        "--training.log-every",
        "1",
    ]
    options += [part for number in (2, 3, 4) for part in (f"--backbones.{number}.mode", "full")]
    with (
        ray_nodes(tmp_path) as nodes,
        running(tmp_path / "log", "train", *options, environment=nodes.environment) as run,
    ):
        run.wait_for("epoch 2/400  validation")
        nodes.drain(nodes.workers[0], 30)
        run.wait_for("PRE-EMPTION of the nodes of ranks [")
        time.sleep(30)
        nodes.workers[0].cut_power()
        run.wait_for("resuming at epoch", timeout=400)
        validated = run.text().count("validation:")
        run.wait_for("validation:", times=validated + 1)
        run.process.terminate()
        assert run.wait() == 143, run.text()
    assert run.text().count("PRE-EMPTION") == 1
