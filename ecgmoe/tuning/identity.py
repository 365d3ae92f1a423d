"""What the name of a search or of a table stands for, and its run in MLflow, above those of its trainings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import to_dict
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.identity import code_revision, compare_identities
from ecgmoe.training.tracking import ParentRun

PARENT = "mlflow.json"


def claim(store: Store, file: str, identity: dict[str, Any]) -> None:
    """Note what the name stands for, where it is new.

    Args:
        store: of the search or table.
        file: that holds its identity.
        identity: with the key "config", a `RunConfig` as plain values.

    Raises:
        ValueError: it stands for something else; the message names the keys that differ.
    """
    if store.exists(file):
        _, other = compare_identities(store.read_json(file), identity)
        if other:
            raise ValueError(f"{store.root} is of another kind ({'; '.join(other)}): choose another --name")
        return
    store.write_json(file, {**identity, "code": code_revision()})


def parent_run(store: Store, storage: str, name: str, about: Mapping[str, Any], config: RunConfig) -> ParentRun:
    """The MLflow run of this search or table, made on the first start, in the store of the runs of `storage`."""
    uri = tracking.default_uri(Store(storage).root)
    if store.exists(PARENT):
        known = store.read_json(PARENT)
        if known["tracking_uri"] == uri and tracking.knows_run(uri, known["run_id"]):
            return ParentRun(uri=uri, run_id=known["run_id"])
    run_id = tracking.create_run(
        uri,
        name,
        {**about, "config": to_dict(config)},
        {"revision": code_revision()["revision"], "random_backbones": ",".join(config.random_backbones)},
        artifacts=Store(storage).path("mlflow-artifacts"),
    )
    store.write_json(PARENT, {"run_id": run_id, "tracking_uri": uri})
    return ParentRun(uri=uri, run_id=run_id)
