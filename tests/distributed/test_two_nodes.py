"""The RayJob of the overlay local on two nodes of this machine: it trains and ends, tells nobody whose ECGs it saw, and a
stranger is refused. What is run is read from the manifest."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from identifiers import found_below, found_in_text, identifiers
from jobs import REPOSITORY
from prepared_examples import simulated_and_prepared
from two_nodes import Cluster, Job, cluster, read_job

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


CANARY = secrets.token_hex(16)
"""Stands for the keys of an object store, which pods get as variables."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two_nodes")


@pytest.fixture(scope="module")
def job(folder: Path) -> Job:
    read = read_job("local", "train", folder)
    keys = {"AWS_SECRET_ACCESS_KEY": CANARY}
    return replace(read, environment=read.environment | keys, worker_environment=read.worker_environment | keys)


@pytest.fixture(scope="module")
def started(job: Job, folder: Path) -> Iterator[Cluster]:
    with cluster(job, folder) as started:
        yield started


def test_the_manifest_is_what_is_run(job: Job, folder: Path) -> None:
    shared = folder / "shared"
    assert job.command[:3] == ("python", f"{REPOSITORY}/jobs/train.py", "tiny")
    assert job.command[job.command.index("--storage") + 1] == f"{shared}/runs"
    assert job.environment["ECGMOE_HOME"] == f"{shared}/ecgmoe"
    assert job.environment["ECGMOE_SHARED_MOUNT"] == "1"
    assert job.worker_environment == {**job.environment, "POD_IP": "127.0.0.1"}
    assert job.runtime_env == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}
    assert job.head == ("--num-cpus", "0")
    assert job.worker == ("--num-cpus", "3")


def test_a_stranger_is_refused(job: Job, started: Cluster, tmp_path: Path) -> None:
    """Without a token, and with another one; by Ray's own command and by a plain request."""
    (tmp_path / "token").write_text(secrets.token_hex(32))
    wrong = started.submit(job, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert wrong.returncode != 0
    assert "authentication is enabled" in wrong.stdout + wrong.stderr
    for headers in ({}, {"Authorization": f"Bearer {secrets.token_hex(32)}"}):
        request = urllib.request.Request(
            f"{started.dashboard}/api/jobs/",
            data=json.dumps({"entrypoint": f"touch {tmp_path}/done"}).encode(),
            headers={"Content-Type": "application/json", **headers},
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        assert refused.value.code in (401, 403)
    assert not (tmp_path / "done").exists()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_job_trains_and_tells_no_identifier_and_no_secret(job: Job, started: Cluster, folder: Path) -> None:
    data = simulated_and_prepared(job.shared / "simulated", patients=60, studies=120)
    # Nothing to embed before the training.
    short = [part for number in (2, 3, 4) for part in (f"--backbones.{number}.mode", "full")]
    done = started.submit(job, ["--data", str(data), *short, "--training.epochs", "1", "--pretraining.epochs", "0"])
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "epoch 1/1  validation" in said
    runs = job.shared / "runs"
    assert (runs / "tiny" / "model" / "model.safetensors").is_file()
    assert (runs / "tiny" / "report" / "metrics.json").is_file()

    known = identifiers(data)
    assert found_in_text(known, said) == set()
    assert found_below(known, runs / "mlflow.db", runs / "mlflow-artifacts") == {}
    logs = [
        folder / "head.log",
        folder / "worker.log",
        *(each / "session_latest" / "logs" for each in started.folders.values()),
    ]
    assert found_below(known, *logs) == {}
    assert CANARY not in said
    files = [each for each in (*runs.rglob("*"), *folder.rglob("*.log")) if each.is_file()]
    assert [each for each in files if CANARY.encode() in each.read_bytes()] == []
    # Where the data themselves may be seen, the report says of which studies it speaks: the search finds what is there.
    assert found_below(known, runs / "tiny" / "report" / "report.html") != {}
