"""What a run name stands for: configuration, data and code; and what of it a run may change between two starts."""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import ecgmoe
from ecgmoe import config as configuration
from ecgmoe.config_tools import differing_keys, from_dict, to_dict
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store

LAYOUT = (
    "engine",
    "num_workers",
    "min_workers",
    "zero_stage",
    "offload",
    "bucket_mb",
    "accumulation",
    "read_ahead",
    "checkpoint_every",
    "log_every",
    "max_failures",
    "hang_timeout_s",
    "skip_not_finite",
)
"""Options of `TrainingConfig` that a run may change between two starts: none of them changes what it computes, but for the
batches that it leaves out where a loss is not finite."""


def check_name(name: str) -> None:
    """Refuse a run name that is not one folder name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(
            f"run name {name!r}: use letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit"
        )


def run_identity(config: configuration.RunConfig, data: PreparedData) -> dict[str, Any]:
    """What a run name stands for: two of these that differ are two runs."""
    return {
        "config": to_dict(config),
        "data": {
            "folder": data.store.root,
            **{key: data.manifest[key] for key in ("dataset", "records_key", "labels_sha256")},
        },
        "features": data.features,
    }


def refuse_other_run(run: Store, identity: dict[str, Any]) -> list[str]:
    """Make sure that the run name, where it is taken, stands for the same.

    Returns:
        The options of `LAYOUT` that changed since the run last started, as "key: old -> new".

    Raises:
        ValueError: it stands for something else; the message names the keys that differ.
    """
    if not run.exists("config.json"):
        return []
    changed, other = compare_identities(run.read_json("config.json"), identity)
    if other:
        raise ValueError(
            f"the run {run.root} has another configuration ({'; '.join(other)}): choose another --run, or the old values"
        )
    return changed


def compare_identities(stored: Mapping[str, Any], identity: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """How two identities with a key "config", a `RunConfig` as plain values, differ; the code of the stored one does not count.

    Returns:
        The options of `LAYOUT` that differ, and everything else that does, as "key: old -> new".
    """
    whole = {key: value for key, value in stored.items() if key != "code"}
    # Options that came after it have their defaults.
    whole["config"] = to_dict(from_dict(configuration.RunConfig, stored["config"]))
    differing = differing_keys(whole, identity)
    layout = {f"config.training.{name}" for name in LAYOUT}
    changed = [line for line in differing if line.partition(":")[0] in layout]
    return changed, [line for line in differing if line not in changed]


def code_revision() -> dict[str, str]:
    """Version and, in a checkout, git revision."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except OSError:
        found = ""
    return {"version": ecgmoe.__version__, "revision": found or "unknown"}


def environment() -> dict[str, str]:
    """Python and the packages that decide what a training computes."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "deepspeed", "ray", "numpy", "transformers", "peft", "momentfm"):
        # momentfm is an extra.
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
