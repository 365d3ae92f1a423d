"""What Prometheus reads from a node's endpoint while a stage and a training run."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ecgmoe import metrics
from ecgmoe.pipeline.progress import Progress as StageProgress
from jobs import REPOSITORY

pytestmark = [pytest.mark.distributed, pytest.mark.ray]

TASKS = ("rr", "age")


def training_steps(config: dict[str, Any]) -> None:
    """Three logged steps of a worker whose engine does nothing."""
    from ecgmoe.training.config import TrainingConfig
    from ecgmoe.training.progress import Progress
    from ecgmoe.training.routing import RoutingLoad

    class Engine:
        def get_lr(self) -> list[float]:
            return [0.1]

        def get_global_grad_norm(self) -> float:
            return 2.5

    class Tracker:
        def log(self, *_: Any, **__: Any) -> None:
            pass

    load = RoutingLoad(["rr"], ["a", "b"], torch.device("cpu"))
    tracker: Any = Tracker()
    progress = Progress(TrainingConfig(log_every=1), 30, 0, tracker, load, run="seen")
    progress.resume(progress.interval())
    costs = []
    for step in range(1, 31):
        load.total += 1.0
        time.sleep(0.01)
        start = time.perf_counter()
        progress.step(0, step, {f"{name}": torch.tensor(float(step)) for name in TASKS}, Engine())
        costs.append(time.perf_counter() - start)
    progress.saved(1.5)
    print(f"a logged step: {1e3 * sorted(costs)[15]:.2f} ms", flush=True)
    # The endpoint is told every few seconds.
    time.sleep(config["seconds"])


def scrape(node: dict[str, Any]) -> dict[str, float]:
    """Our metrics of this node: name and labels in order, without Ray's own labels, to the sum over processes."""
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^ray_(ecgmoe_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        ours = re.findall(r'\b(run|rank|stage|task)="([^"]*)"', labels)
        key = name + "".join(f" {label}={content}" for label, content in sorted(ours))
        found[key] = found.get(key, 0.0) + float(value)
    return found


def test_a_node_tells_every_metric() -> None:
    ray.init(address="local", num_cpus=1, _system_config={"metrics_report_interval_ms": 1000})
    try:
        stage = StageProgress("embed", 100)
        stage.add(30)
        stage.add(20)
        others = {name: metric for name, metric in metrics.METRICS.items() if not name.startswith("stage_")}
        for name, metric in others.items():
            (metrics.add if metric.counts else metrics.put)(name, 7, **dict.fromkeys(metric.labels, "x"))
        expected = {
            f"ecgmoe_{name}{'_total' if metric.counts else ''}"
            + "".join(f" {label}=x" for label in sorted(metric.labels)): 7.0
            for name, metric in others.items()
        }
        expected |= {"ecgmoe_stage_records_total stage=embed": 50.0, "ecgmoe_stage_records_to_do stage=embed": 50.0}
        end, found = time.monotonic() + 60, dict[str, float]()
        while found != expected and time.monotonic() < end:
            time.sleep(1)
            found = scrape(ray.nodes()[0])
        assert found == expected
    finally:
        ray.shutdown()


@pytest.mark.long
def test_a_training_tells_how_far_it_is(tmp_path: Path) -> None:
    ray.init(address="local", num_cpus=2, _system_config={"metrics_report_interval_ms": 1000})
    try:
        trainer = TorchTrainer(
            training_steps,
            train_loop_config={"seconds": 15},
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(name="seen", storage_path=str(tmp_path)),
        )
        found: dict[str, float] = {}
        thread = threading.Thread(target=trainer.fit)
        thread.start()
        end = time.monotonic() + 90
        while (
            time.monotonic() < end
            and thread.is_alive()
            and "ecgmoe_training_checkpoint_seconds rank=0 run=seen" not in found
        ):
            time.sleep(1)
            found |= scrape(ray.nodes()[0])
        thread.join(60)
    finally:
        ray.shutdown()
    expected = {"step": 30, "steps_to_do": 0, "epoch": 1, "gradient_norm": 2.5, "dead_experts": 0, "resumed_total": 1}
    for name, value in expected.items():
        assert found[f"ecgmoe_training_{name} run=seen"] == value, name
    for task in TASKS:
        assert found[f"ecgmoe_training_loss run=seen task={task}"] == 30
    for name in ("data_wait_share", "memory_bytes", "checkpoint_seconds"):
        assert f"ecgmoe_training_{name} rank=0 run=seen" in found


def test_without_ray_nothing_happens() -> None:
    assert not ray.is_initialized()
    metrics.put("training_step", 1, run="x")
    metrics.add("stage_records", 1, stage="x")


def test_the_table_of_the_documents_is_complete() -> None:
    text = (REPOSITORY / "CLUSTER.md").read_text()
    documented = dict(re.findall(r"^\| `ray_ecgmoe_(\w+?)(?:_total)?` \| ([a-z, ]*) \|", text, re.MULTILINE))
    assert documented == {name: ", ".join(metric.labels) for name, metric in metrics.METRICS.items()}
