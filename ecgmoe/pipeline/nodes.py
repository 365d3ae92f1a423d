"""Paths and the nodes of a cluster: what is written on one node has to be there on all of them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import ray

from ecgmoe.filesystem import StorageError, is_local
from ecgmoe.pipeline.ray_data import connect

SHARED_MOUNT = "ECGMOE_SHARED_MOUNT"
"""Set to 1 it says that local paths are mounts which every node has."""


def alive_nodes() -> list[dict[str, Any]]:
    """The cluster's nodes as `ray.nodes` describes them; none where neither Ray runs nor a cluster is named."""
    if not ray.is_initialized():
        # Nobody has to wait for Ray to learn that one machine is one node.
        if not os.environ.get("RAY_ADDRESS"):
            return []
        connect()
    return [node for node in ray.nodes() if node["Alive"]]


def refuse_local(**paths: str | None) -> None:
    """Refuse local paths on several nodes: a worker on another one would read nothing, or write where nobody looks.

    Args:
        paths: by the name of the option, with _ for -; None and URLs are never refused.

    Raises:
        ValueError: naming the paths and what to do.
    """
    local = [f"{path} (--{name.replace('_', '-')})" for name, path in paths.items() if path and is_local(path)]
    if not local or os.environ.get(SHARED_MOUNT):
        return
    nodes = len(alive_nodes())
    if nodes > 1:
        what = " and ".join(local) + (" is a local path" if len(local) == 1 else " are local paths")
        raise ValueError(
            f"{what} and the cluster has {nodes} nodes: give an object store (s3://bucket/path), or, where it is a mount "
            f"shared by all nodes, set {SHARED_MOUNT}=1"
        )


def require_here(root: str, name: str = "") -> None:
    """Refuse to go on, on a node that does not see what the others see; called inside tasks and actors.

    Without it a reader would exclude every record as missing, and a writer would fill a folder of its own.

    Args:
        root: local path or URL; URLs lead to the same place everywhere.
        name: of a file that is there in any case, where `root` itself might be made by accident.

    Raises:
        StorageError: naming the node.
    """
    if is_local(root) and not Path(root, name).exists():
        node = socket.gethostname()
        if ray.is_initialized():
            node += f" ({ray.util.get_node_ip_address()})"
        raise StorageError(
            f"{Path(root, name)} is not there on the node {node}: mount it there at this path, as on the other nodes, or "
            "give an object store (s3://bucket/path)"
        )
