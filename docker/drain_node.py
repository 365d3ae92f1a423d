"""Tell Ray that a node will be taken away, and wait until it is gone: `python drain_node.py ADDRESS SECONDS`.

Kubernetes calls it before it ends a worker's pod. An idle node leaves at once. Ray Train is told, so as to save a checkpoint:
that was not yet seen with a training worker.
The node is named by its address: without one `ray drain-node` takes that of the driver that it makes, which may be the head's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import ray


def drain(address: str, seconds: int) -> int:
    """Drain the node with this IP address of the cluster at RAY_ADDRESS; returns an exit code.

    Args:
        address: of a worker; the head is refused, with which the run would end.
        seconds: from now on until the node may be killed.
    """
    end = time.monotonic() + seconds
    ray.init(log_to_driver=False, logging_level="ERROR")
    found = [node for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == address]
    if len(found) != 1 or "node:__internal_head__" in found[0]["Resources"]:
        print(
            f"error: {len(found)} nodes, or the head, have the address {address}: nothing was drained", file=sys.stderr
        )
        return 2
    node = found[0]["NodeID"]
    command = [
        Path(sys.executable).parent / "ray",
        "drain-node",
        "--node-id",
        node,
        "--deadline-remaining-seconds",
        str(seconds),
    ]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "its pod is deleted"]
    subprocess.run(command, check=True, timeout=60)
    print(f"draining {address}", flush=True)
    while time.monotonic() < end and any(each["NodeID"] == node and each["Alive"] for each in ray.nodes()):
        time.sleep(1)
    return 0


if __name__ == "__main__":
    sys.exit(drain(sys.argv[1], int(sys.argv[2])))
