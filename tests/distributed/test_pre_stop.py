"""What Kubernetes calls before it ends a worker's pod drains that node, and an idle one leaves."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from jobs import REPOSITORY
from manifests import documents
from ray_nodes import ray_nodes, without_ray

pytestmark = [pytest.mark.distributed, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]


def test_an_idle_worker_leaves_when_its_pod_is_deleted(tmp_path: Path) -> None:
    job = next(each for each in documents("local") if each["metadata"]["name"] == "train")
    pod = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    (*shell, script) = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    command = [*shell, script.replace("/opt/ecgmoe", str(REPOSITORY))]
    with ray_nodes(tmp_path) as nodes:
        (worker,) = nodes.workers
        if not worker.namespace:
            pytest.skip("without a network namespace two nodes have one address")
        # The pod's own address, and that of the head as KubeRay gives it to every worker.
        environment = {**without_ray(), **nodes.environment, "POD_IP": worker.address}
        inside = ["ip", "netns", "exec", worker.namespace, *command]
        started = time.monotonic()
        done = subprocess.run(inside, env=environment, capture_output=True, text=True, timeout=150, check=False)
        took = time.monotonic() - started
        print(f"drained after {took:.0f} s")
        assert done.returncode == 0, done.stdout + done.stderr
        # Idle, it does not wait for the 100 s.
        assert took < 90, done.stdout + done.stderr
        assert "raylet" not in [each.name() for each in worker.processes()]
        # The head lives, and refuses to be drained.
        assert "raylet" in [each.name() for each in nodes.head.processes()]
        environment["POD_IP"] = nodes.head.address
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert refused.returncode == 2
        assert "nothing was drained" in refused.stderr
