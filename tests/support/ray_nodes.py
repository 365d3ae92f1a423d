"""Ray nodes on this machine, each as if it were a machine of its own: with its address, its power switch and its cable.

The head lives in this machine's network; every other node has a network namespace, a link to the head and a folder for
Ray's files. Where namespaces are refused, nodes share the address 127.0.0.1 and have no cable to pull.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from jobs import REPOSITORY, kill

RAY = str(Path(sys.executable).parent / "ray")
MARK = "ECGMOE_TEST_NODE"
"""A variable that all processes of a node inherit, from which they are told apart from any other Ray on this machine."""
PREFIX = "ecgmoe"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One running node.

    Attributes:
        name: "head", "worker-1" ...
        address: its IP address.
        namespace: its network namespace; None for the head, and where none can be made.
        process: `ray start --block`.
        log: what that printed.
        mark: value of `MARK` in the environment of all its processes.
    """

    name: str
    address: str
    namespace: str | None
    process: subprocess.Popen[bytes]
    log: Path
    mark: str

    def processes(self) -> list[psutil.Process]:
        """All that live, workers and drivers of jobs too, oldest first."""
        return marked(self.mark)

    def cut_power(self) -> None:
        """Kill all its processes at once, as a machine that loses its power."""
        while alive := self.processes():
            kill(alive)
            psutil.wait_procs(alive, timeout=5)
        self.process.wait(30)

    def unplug(self) -> None:
        """Take its link down: its processes live on, and nothing reaches them or comes from them."""
        assert self.namespace, "without a network namespace there is no link"
        ip("-n", self.namespace, "link", "set", LINK, "down")


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """A cluster.

    Attributes:
        head: where drivers are started.
        workers: the other nodes.
        environment: of a driver that joins it, or of who submits a job.
        dashboard: address for `ray job submit`; "" without.
    """

    head: Node
    workers: list[Node] = field(default_factory=list)
    environment: dict[str, str]
    dashboard: str

    def ray(self, *arguments: str, timeout: float = 900, **environment: str) -> subprocess.CompletedProcess[str]:
        """Call Ray's command line with the token, from the repository."""
        return subprocess.run(
            [RAY, *arguments],
            cwd=REPOSITORY,
            env={**without_ray(), **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def drain(self, node: Node, seconds: int) -> None:
        """Tell Ray that a node will be taken away, as a provider of spot machines does."""
        script = (
            "import ray, sys; ray.init(); print([n['NodeID'] for n in ray.nodes() if n['NodeName'] == sys.argv[1]][0])"
        )
        asked = [sys.executable, "-c", script, node.address]
        found = subprocess.run(
            asked, env={**without_ray(), **self.environment}, capture_output=True, text=True, timeout=120, check=True
        )
        options = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken away"]
        options += ["--node-id", found.stdout.split()[-1], "--deadline-remaining-seconds", str(seconds)]
        done = self.ray("drain-node", "--address", self.environment["RAY_ADDRESS"], *options)
        assert done.returncode == 0, done.stdout + done.stderr

    def job(self, command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`ray job COMMAND`, e.g. "submit"."""
        return self.ray("job", command, "--address", self.dashboard, *arguments, **environment)


@contextmanager
def ray_nodes(
    folder: Path,
    *,
    workers: int = 1,
    cpus: tuple[int, ...] = (1, 1),
    dashboard: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Nodes]:
    """A head and so many workers with token authentication; all that was made is gone afterwards.

    Args:
        folder: for the token and the logs.
        workers: nodes beside the head.
        cpus: of the head and of each worker.
        dashboard: start it, for jobs and ray.util.state.
        environment: more for all processes of all nodes.
    """
    remove_orphans()
    (folder / "token").write_text(secrets.token_hex(32))
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    # The python of a job's entry point is this one.
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    common = {**without_ray(), **access, **path, "ECGMOE_SHARED_MOUNT": "1", **(environment or {})}
    port, board = free_port(), free_port()
    with ExitStack() as stack:
        links = [stack.enter_context(link(number)) for number in range(1, workers + 1)]
        here = links[0].head_address if links and links[0] else "127.0.0.1"
        # A host name may stand for 127.0.0.1, where no other machine finds gloo.
        interface = {"GLOO_SOCKET_IFNAME": links[0].head_interface} if links and links[0] else {}
        options = ["--head", "--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(board)]
        options += ["--include-dashboard", str(dashboard).lower(), "--node-ip-address", here]
        head = stack.enter_context(node(folder, "head", here, None, common | interface, cpus[0], options))
        nodes = Nodes(
            head=head,
            environment={**access, **path, **interface, "RAY_ADDRESS": f"{here}:{port}", "ECGMOE_SHARED_MOUNT": "1"},
            dashboard=f"http://127.0.0.1:{board}" if dashboard else "",
        )
        for number, each in enumerate(links, start=1):
            there, namespace = (each.address, each.namespace) if each else ("127.0.0.1", None)
            own = {"GLOO_SOCKET_IFNAME": LINK} if each else {}
            options = ["--address", f"{here}:{port}", "--node-ip-address", there]
            name = f"worker-{number}"
            nodes.workers.append(
                stack.enter_context(node(folder, name, there, namespace, common | own, cpus[1], options))
            )
        if dashboard:
            wait_until(lambda: nodes.job("list").returncode == 0, "the dashboard did not start", 120)
        yield nodes


@contextmanager
def node(
    folder: Path,
    name: str,
    address: str,
    namespace: str | None,
    environment: Mapping[str, str],
    cpus: int,
    options: list[str],
) -> Iterator[Node]:
    """One node, ready when this returns."""
    # Paths of sockets may have 107 characters, and pytest's folders are long.
    files = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    mark, log = f"{os.getpid()}-{secrets.token_hex(4)}", folder / f"{name}.log"
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    command = [*inside, RAY, "start", "--block", "--num-cpus", str(cpus), "--temp-dir", files, *options]
    # Two agents on one address would ask for one port.
    command += ["--dashboard-agent-listen-port", str(free_port()), "--object-store-memory", str(200 << 20)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env={**environment, MARK: mark}, stdout=out, stderr=out, start_new_session=True
        )
    one = Node(name=name, address=address, namespace=namespace, process=process, log=log, mark=mark)
    try:
        wait_until(
            lambda: "Ray runtime started" in log.read_text() or process.poll() is not None, f"{name} did not start", 180
        )
        assert process.poll() is None, f"{name} did not start:\n{log.read_text()}"
        yield one
    finally:
        one.cut_power()
        shutil.rmtree(files, ignore_errors=True)


LINK = "lan"
"""Name of a node's own end of its link."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A network namespace with a link to this one."""

    namespace: str
    address: str
    head_address: str
    head_interface: str


@contextmanager
def link(number: int) -> Iterator[Link | None]:
    """The namespace and link of a node; None where this machine refuses them."""
    pid = os.getpid()
    namespace, end = f"{PREFIX}-{pid}-{number}", f"e{pid}n{number}"
    # Private addresses that another test process of this machine is unlikely to have.
    subnet = f"10.{200 + pid // 256 % 50}.{pid % 256}"
    made = Link(
        namespace=namespace,
        address=f"{subnet}.{4 * number + 2}",
        head_address=f"{subnet}.{4 * number + 1}",
        head_interface=end,
    )
    if os.geteuid() or subprocess.run(["ip", "netns", "add", namespace], capture_output=True, check=False).returncode:
        yield None
        return
    try:
        ip("link", "add", end, "type", "veth", "peer", "name", LINK, "netns", namespace)
        ip("addr", "add", f"{made.head_address}/30", "dev", end)
        ip("link", "set", end, "up")
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "addr", "add", f"{made.address}/30", "dev", LINK)
        ip("-n", namespace, "link", "set", LINK, "up")
        ip("-n", namespace, "route", "add", "default", "via", made.head_address)
        yield made
    finally:
        # With the namespace goes its end of the link, and with that the other.
        ip("netns", "del", namespace)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def remove_orphans() -> None:
    """Namespaces of a test process that was killed, with their processes."""
    if os.geteuid():
        return
    for name in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout.split():
        if name.startswith(f"{PREFIX}-") and not psutil.pid_exists(int(name.split("-")[1])):
            for pid in ip("netns", "pids", name).split():
                psutil.Process(int(pid)).kill()
            ip("netns", "del", name)


def marked(mark: str) -> list[psutil.Process]:
    """Processes of this machine whose environment has this mark."""
    found = []
    for each in psutil.process_iter():
        try:
            if each.environ().get(MARK) == mark and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
        except psutil.Error:
            continue
    return found


def without_ray() -> dict[str, str]:
    """This process's environment without Ray's settings."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_until(true: Callable[[], bool], otherwise: str, timeout: float) -> float:
    """Seconds until it was true; fails with `otherwise` after `timeout` of them."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < timeout, f"{otherwise} in {timeout} s"
        time.sleep(0.2)
    return time.monotonic() - start
