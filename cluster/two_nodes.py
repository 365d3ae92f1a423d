"""Run the job of a RayJob on a real Ray cluster of two nodes on this machine: `python cluster/two_nodes.py FOLDER`.

What Kubernetes would be told is read from the rendered manifest: the entry command, the job's runtime environment, the
variables of the pods, Ray's start parameters, token authentication and the mount of the shared volume. Only what a machine
has of its own is other: /opt/ecgmoe is this repository, the mounted volume is FOLDER/shared, both nodes have one address (the
dashboard's is loopback; Ray's other ports listen at the machine's own, with the token), and the tracking server is
--tracking-uri or a file below the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from render import overlay

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGE_CODE = "/opt/ecgmoe"
"""Where the code is in the image: WORKDIR of docker/Dockerfile."""
RAY = str(Path(sys.executable).parent / "ray")
START_S = 180
POD_FIELDS = {"status.podIP": "127.0.0.1"}
"""What Kubernetes tells a pod about itself."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a RayJob says, for this machine.

    Attributes:
        command: the entry command as words.
        environment: of the head's processes, and of who submits.
        worker_environment: of the other node's.
        runtime_env: of the job.
        head: options of `ray start` on the head.
        worker: options of `ray start` on the other node.
        shared: the folder that stands for the shared volume.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    worker_environment: dict[str, str]
    runtime_env: dict[str, Any]
    head: tuple[str, ...]
    worker: tuple[str, ...]
    shared: Path


def read_job(name: str, job: str, folder: Path, tracking_uri: str | None = None) -> Job:
    """The RayJob of an overlay, with paths of this machine.

    Args:
        name: of the overlay.
        job: name of the RayJob.
        folder: its subfolder "shared" stands for the volume.
        tracking_uri: of an MLflow server; without one MLflow's file lies beside the runs.

    Raises:
        ValueError: there is none, or it asks for what this machine cannot stand in for.
    """
    documents = overlay(name)
    jobs = {each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == "RayJob"}
    if job not in jobs:
        raise ValueError(f"the overlay {name} has no RayJob {job!r}: choose one of {', '.join(jobs)}")
    spec, cluster = jobs[job], jobs[job]["rayClusterSpec"]
    if cluster.get("authOptions") != {"mode": "token"}:
        raise ValueError(f"the RayJob {job} has no authOptions.mode: token, and this starts no cluster without it")
    shared = folder.resolve() / "shared"
    head = cluster["headGroupSpec"]
    pod = head["template"]["spec"]
    paths = {IMAGE_CODE: str(REPOSITORY), **_mounts(pod, shared)}
    group = cluster["workerGroupSpecs"][0]
    if any("nvidia.com/gpu" in _resources(each) for each in cluster["workerGroupSpecs"]):
        raise ValueError(f"the RayJob {job} of the overlay {name} wants GPUs: choose the overlay local")
    tracked = {"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {}
    environment, worker_environment = (
        {
            key: _local(value, paths)
            for key, value in _variables(each, documents).items()
            if key != "MLFLOW_TRACKING_URI"
        }
        | tracked
        for each in (pod, group["template"]["spec"])
    )
    return Job(
        command=tuple(_local(word, paths) for word in shlex.split(spec["entrypoint"])),
        environment=environment,
        worker_environment=worker_environment,
        runtime_env=yaml.safe_load(spec.get("runtimeEnvYAML", "{}")),
        head=_start_options(head),
        # What KubeRay reads off the limits of a pod.
        worker=(*_start_options(group), "--num-cpus", _resources(group)["cpu"]),
        shared=shared,
    )


def _mounts(pod: Mapping[str, Any], shared: Path) -> dict[str, str]:
    """Folders of this machine for the paths at which the pod mounts claims."""
    claims = {each["name"] for each in pod["volumes"] if "persistentVolumeClaim" in each}
    mounted = {
        each["mountPath"]: each.get("subPath", "")
        for each in pod["containers"][0]["volumeMounts"]
        if each["name"] in claims
    }
    return {path: str(shared / below) for path, below in mounted.items()}


def _local(text: str, paths: Mapping[str, str]) -> str:
    """A word or value with the longest path that it begins with changed to that of this machine."""
    for path in sorted(paths, key=len, reverse=True):
        if text == path or text.startswith(f"{path}/"):
            return paths[path] + text[len(path) :]
    return text


def _variables(pod: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of a pod's first container: from its ConfigMaps, then its own. A Secret has to be optional, nobody has it here."""
    maps = {each["metadata"]["name"]: each["data"] for each in documents if each["kind"] == "ConfigMap"}
    container = pod["containers"][0]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]
        elif not source["secretRef"].get("optional"):
            raise ValueError(f"the Secret {source['secretRef']['name']} is not on this machine")
    for each in container.get("env", []):
        found[each["name"]] = (
            each["value"] if "value" in each else POD_FIELDS[each["valueFrom"]["fieldRef"]["fieldPath"]]
        )
    return found


def _resources(group: Mapping[str, Any]) -> dict[str, str]:
    return dict(group["template"]["spec"]["containers"][0]["resources"]["limits"])


def _start_options(group: Mapping[str, Any]) -> tuple[str, ...]:
    """rayStartParams as KubeRay passes them on; the dashboard stays on loopback."""
    told = {key: value for key, value in group.get("rayStartParams", {}).items() if key != "dashboard-host"}
    return tuple(word for key, value in told.items() for word in (f"--{key}", value))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Two running nodes.

    Attributes:
        dashboard: address for `ray job`.
        address: of the head, for drivers.
        environment: of its head, the token's file among them.
        processes: `ray start --block` of the head and of the worker.
        folders: of Ray's files, with its logs, by node.
    """

    dashboard: str
    address: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)

    def submit(self, job: Job, more: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit` of the entry command with more options after it, to its end.

        Args:
            job: what to run.
            more: options of the command.
            environment: other variables of who submits.
        """
        said = ["--runtime-env-json", json.dumps(job.runtime_env), "--", *job.command, *more]
        command = [RAY, "job", "submit", "--address", self.dashboard, *said]
        return subprocess.run(command, env=self.environment | environment, capture_output=True, text=True, check=False)


@contextmanager
def cluster(job: Job, folder: Path) -> Iterator[Cluster]:
    """A head and a worker; they are gone afterwards, and their logs are in FOLDER/logs."""
    job.shared.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}"
    own = {"PATH": path, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment, worker_environment = (
        {**inherited, **each, **own} for each in (job.environment, job.worker_environment)
    )
    port, board = _free_port(), _free_port()
    address = f"127.0.0.1:{port}"
    started = Cluster(dashboard=f"http://127.0.0.1:{board}", address=address, environment=environment)
    head = ["--head", "--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(board)]
    with ExitStack() as stack:
        stack.enter_context(_node(started, "head", [*head, *job.head], environment, folder))
        stack.enter_context(_node(started, "worker", ["--address", address, *job.worker], worker_environment, folder))
        _wait(lambda: _answers(started), "the dashboard does not answer")
        yield started


@contextmanager
def _node(
    started: Cluster, name: str, options: Sequence[str], environment: Mapping[str, str], folder: Path
) -> Iterator[None]:
    # Paths of sockets may have 107 characters.
    files = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    log = folder / f"{name}.log"
    command = [RAY, "start", "--block", "--node-ip-address", "127.0.0.1", "--temp-dir", str(files), *options]
    # Two nodes of one address would ask for the same port.
    command += ["--dashboard-agent-listen-port", str(_free_port()), "--object-store-memory", str(200 << 20)]
    process = _started(command, environment, log)
    started.processes[name], started.folders[name] = process, files
    try:
        if process.poll() is not None:
            raise RuntimeError(f"the {name} did not start:\n{log.read_text()}")
        yield
    finally:
        # As a pod that is deleted.
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder / "logs" / name, ignore_errors=True)
        shutil.copytree(files, folder / "logs" / name, ignore=_only_logs, dirs_exist_ok=True)
        shutil.rmtree(files, ignore_errors=True)


def _started(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A node that says that it runs, or has ended.

    Ray gives it 30 s, which a busy machine may exceed: it is tried three times.
    """
    for _ in range(3):
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        end = time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        if "timed out during startup" not in log.read_text():
            break
    return process


def _only_logs(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("sockets", "runtime_resources") or name.startswith("session_latest")]


def _answers(started: Cluster) -> bool:
    command = [RAY, "job", "list", "--address", started.dashboard]
    return subprocess.run(command, env=started.environment, capture_output=True, check=False).returncode == 0


def _wait(true: Any, otherwise: str) -> None:
    end = time.monotonic() + START_S
    while not true():
        if time.monotonic() > end:
            raise RuntimeError(f"{otherwise} within {START_S} s")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main(argv: Sequence[str]) -> int:
    """Start, submit, follow and end; returns the exit code of `ray job submit`."""
    # So that a SIGTERM ends the nodes too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the shared volume and the logs")
    parser.add_argument("--overlay", default="local", help="local by default; one with GPUs needs them")
    parser.add_argument("--job", default="train", help="name of the RayJob")
    parser.add_argument("--tracking-uri", help="of an MLflow server; else a file beside the runs")
    parser.add_argument("more", nargs="*", metavar="-- OPTIONS", help="further options of the entry command")
    told = parser.parse_args(argv)
    told.folder.mkdir(parents=True, exist_ok=True)
    job = read_job(told.overlay, told.job, told.folder, told.tracking_uri)
    print(f"two nodes for: {shlex.join([*job.command, *told.more])}", flush=True)
    with cluster(job, told.folder) as started:
        done = started.submit(job, told.more)
        print(done.stdout + done.stderr, flush=True)
    return done.returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
