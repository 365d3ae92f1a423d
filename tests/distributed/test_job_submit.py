"""Every entry point under `ray job submit` on a cluster of two nodes with token authentication."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecgmoe.ecg.simulate import SimulationConfig, simulate
from prepared_examples import simulated_and_prepared
from ray_nodes import Nodes, ray_nodes, wait_until

pytestmark = [pytest.mark.distributed, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submitted")


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[Nodes]:
    """With $ECGMOE_HOME in the environment of the nodes, where jobs have it from."""
    home = {"ECGMOE_HOME": str(folder / "home")}
    with ray_nodes(folder, cpus=(2, 2), dashboard=True, environment=home) as nodes:
        yield nodes


def submitted(nodes: Nodes, name: str, *options: str, expect: str = "SUCCEEDED") -> str:
    """Submit jobs/NAME.py, follow it to its end, check that, and return what it printed."""
    identity = f"{name}-{secrets.token_hex(4)}"
    command = ["python", f"jobs/{name}.py", *options]
    started = time.monotonic()
    done = nodes.job("submit", "--submission-id", identity, "--working-dir", ".", "--", *command)
    print(f"{name}: {time.monotonic() - started:.0f} s, exit code {done.returncode}", flush=True)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == (expect == "SUCCEEDED"), said
    assert expect == status(nodes, identity), said
    return said


def status(nodes: Nodes, identity: str) -> str:
    """SUCCEEDED, FAILED, STOPPED ...; Ray's command line says it in a sentence."""
    listed = nodes.job("list").stdout
    found = re.search(rf"submission_id='{identity}'.*?status=<JobStatus\.(\w+)", listed, re.DOTALL)
    assert found, listed
    return found.group(1)


def test_the_whole_way(folder: Path, nodes: Nodes) -> None:
    simulate(folder / "raw", SimulationConfig(patients=80, studies=200, seed=1))
    data, runs = str(folder / "data"), folder / "home" / "runs"
    said = submitted(
        nodes, "prepare", "--dataset", "simulated", "--root", str(folder / "raw"), "--out", data, "--shard-rows", "32"
    )
    assert "exclusions.parquet says why" in said
    assert f"moment: {data}/features/moment-" in submitted(nodes, "embed", "tiny", "--data", data)
    said = submitted(
        nodes, "train", "tiny", "--data", data, "--run", "first", "--training.epochs", "1", "--pretraining.epochs", "0"
    )
    assert "epoch 1/1  validation" in said
    # The default storage does not lie in the job's throw-away working directory.
    assert (runs / "first" / "report" / "metrics.json").is_file()
    assert "validation split of simulated" in submitted(nodes, "evaluate", "--run", "first", "--split", "validation")
    out = str(folder / "predictions.parquet")
    said = submitted(
        nodes, "predict", "--model", str(runs / "first" / "model"), "--input", str(folder / "raw"), "--out", out
    )
    assert f"{out}: " in said
    assert "records predicted" in said


def test_a_wrong_option_fails_the_job_with_its_line(nodes: Nodes) -> None:
    said = submitted(nodes, "train", "nonsense", expect="FAILED")
    assert "error: unknown preset 'nonsense'" in said
    said = submitted(nodes, "embed", "tiny", "--data", "/nowhere", expect="FAILED")
    assert "error: /nowhere holds no prepared data" in said
    assert "Traceback" not in said


def test_the_code_is_that_of_the_working_directory(nodes: Nodes) -> None:
    """On every node: what is installed there is not asked."""
    script = "import ecgmoe.cli; print('from', ecgmoe.cli.__file__)"
    done = nodes.job("submit", "--working-dir", ".", "--", "python", "-c", script)
    assert "/working_dir_files/_ray_pkg_" in done.stdout, done.stdout + done.stderr


def test_a_stranger_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text(secrets.token_hex(32))
    wrong = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
    stranger = nodes.job("submit", "--", "python", "-c", "print(1)", **wrong)
    assert stranger.returncode != 0
    assert "authentication is enabled" in stranger.stdout + stranger.stderr


def stop_and_look(nodes: Nodes, name: str, needle: str, *options: str, wait_s: int) -> str:
    """Submit, stop when it printed `needle`, and check that nothing of it is left; returns its log."""
    identity = f"stopped-{name}-{secrets.token_hex(4)}"
    # How long the job has between SIGTERM and SIGKILL.
    environment = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(wait_s)}})
    submit = [
        "submit",
        "--no-wait",
        "--submission-id",
        identity,
        "--working-dir",
        ".",
        "--runtime-env-json",
        environment,
    ]
    done = nodes.job(*submit, "--", "python", f"jobs/{name}.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr

    def log() -> str:
        return nodes.job("logs", identity).stdout

    wait_until(lambda: needle in log(), f"{name} did not say {needle!r}", 300)
    started = time.monotonic()
    assert nodes.job("stop", identity).returncode == 0
    wait_until(lambda: status(nodes, identity) == "STOPPED", f"{name} did not stop", wait_s + 30)
    print(f"{name}: stopped after {time.monotonic() - started:.0f} s", flush=True)
    ended = time.monotonic()
    while remains := left(nodes):
        assert time.monotonic() - ended < 90, remains
        time.sleep(1)
    took = time.monotonic() - ended
    print(f"{name}: nothing left {took:.0f} s later", flush=True)
    return log()


OF_THE_CLUSTER = {
    "_AutoscalingCoordinatorActor",
    "_StatsActor",
    "_StatsSummaryActor",
    "_UsageCollectionActor",
    "ActorLocationTracker",
    "AutoscalingRequester",
    "TrainStateActor",
}
"""Small actors of Ray Data and Ray Train, one for all jobs of a cluster, which stay (lifetime "detached")."""


def harmless(process: str) -> bool:
    """A process of Ray that waits for work, or holds an actor of the cluster or an agent of the node."""
    return any(name in process for name in ("IDLE", "Agent", "Monitor", "Dashboard", *OF_THE_CLUSTER))


def left(nodes: Nodes) -> list[Any]:
    """Actors and placement groups that Ray knows to live, and processes of its workers that do something."""
    found: list[Any] = []
    for kind, over in (("actors", ("DEAD",)), ("placement-groups", ("REMOVED",))):
        listed = nodes.ray("list", kind, "--address", nodes.dashboard, "--format", "json", "--limit", "1000")
        assert listed.returncode == 0, listed.stdout + listed.stderr
        found += [
            each
            for each in json.loads(listed.stdout)
            if each["state"] not in over and each.get("class_name") not in OF_THE_CLUSTER
        ]
    for node in (nodes.head, *nodes.workers):
        lines = [" ".join(each.cmdline()) for each in node.processes()]
        found += [line for line in lines if "python jobs/" in line or (line.startswith("ray::") and not harmless(line))]
    return found


def test_a_stopped_job_leaves_nothing(folder: Path, nodes: Nodes) -> None:
    data = str(simulated_and_prepared(folder / "stopped"))
    # Nothing to embed before the training.
    train = [part for number in (2, 3, 4) for part in (f"--backbones.{number}.mode", "full")]
    train = ["tiny", "--data", data, "--run", "stopped", "--training.epochs", "40", "--pretraining.epochs", "0", *train]
    said = stop_and_look(nodes, "train", "epoch 1/40  validation", *train, wait_s=100)
    assert "saving a checkpoint and leaving" in said
    assert "the same command goes on" in said
    # Enough to be stopped in the middle.
    more = str(simulated_and_prepared(folder / "more", patients=600, studies=1500))
    said = stop_and_look(nodes, "embed", "embed: ", "tiny", "--data", more, wait_s=30)
    assert "terminated: the same command goes on from here" in said
    # With Ray's own 3 s the driver may be killed before it has ended: nothing is left all the same.
    stop_and_look(nodes, "train", "resuming at epoch", *train, wait_s=3)
