"""Local paths on several nodes, and a node that does not see the shared mount."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from ecgmoe.config import tiny
from ecgmoe.datasets.index import build_index
from ecgmoe.inference.predict_files import PLAN, PredictFiles, write_predictions
from ecgmoe.inference.predict_split import predict_split
from ecgmoe.pipeline import embed, nodes
from ecgmoe.pipeline.config import PrepareConfig
from ecgmoe.pipeline.prepare import prepare, shard_plan
from ecgmoe.pipeline.record_shard import PrepareShard
from ecgmoe.pipeline.store import StorageError, Store
from ecgmoe.training import tracking
from ecgmoe.workflow import run
from model_examples import saved_model
from prepared_examples import simulated_and_prepared

HERE = socket.gethostname()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    simulated_and_prepared(folder, patients=20, studies=40)
    saved_model(folder / "model")
    return folder


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(nodes.SHARED_MOUNT, raising=False)
    two: list[dict[str, Any]] = [{"Alive": True}, {"Alive": True}]
    for module in (nodes, tracking):
        monkeypatch.setattr(module, "alive_nodes", lambda: two)


@pytest.mark.usefixtures("two_nodes")
def test_every_stage_refuses_local_paths(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, data, model, out = (
        str(each) for each in (folder / "raw", folder / "data", folder / "model", tmp_path / "out")
    )
    for name, path in (("local", "/data/a"), ("urls", "s3://bucket/a")):
        (tmp_path / f"{name}.csv").write_text(f"path\n{path}\n")
    calls = {
        f"{raw} (--root) and {out} (--out) are local paths": lambda: prepare("simulated", raw, out),
        f"{raw} (--root) is a local path": lambda: prepare("simulated", raw, "memory://out"),
        f"{data} (--data) is a local path": lambda: embed.embed(data, tiny().cached),
        f"{model} (--model) and {raw} (--input) and {tmp_path} (--out) are": lambda: write_predictions(
            model, raw, f"{out}.parquet"
        ),
        f"{model} (--model) and /data/a (--input) and {tmp_path} (--out) are": lambda: write_predictions(
            model, f"{tmp_path}/local.csv", f"{out}.parquet"
        ),
        # A table is read by the driver alone.
        f"{model} (--model) and {tmp_path} (--out) are": lambda: write_predictions(
            model, f"{tmp_path}/urls.csv", f"{out}.parquet"
        ),
        f"{data} (--data) and {model} (--model) are local": lambda: predict_split(model, data, "test"),
        f"{data} (--data) and {out} (--storage) are": lambda: run(tiny(), name="k", storage=out, data=data),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value).startswith(message)
        assert "and the cluster has 2 nodes: give an object store (s3://bucket/path), or, where it is" in str(
            error.value
        )
        assert str(error.value).endswith("a mount shared by all nodes, set ECGMOE_SHARED_MOUNT=1")
    monkeypatch.setenv(nodes.SHARED_MOUNT, "1")
    nodes.refuse_local(root=raw)


@pytest.mark.usefixtures("two_nodes")
def test_mlflow_beside_an_object_store_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"s3://b/runs is an object store.* 2 nodes: .*set MLFLOW_TRACKING_URI"):
        tracking.default_uri("s3://b/runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.default_uri("s3://b/runs") == "http://127.0.0.1:5000"


def test_on_one_node_mlflow_lies_under_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ECGMOE_HOME", str(tmp_path))
    uri = tracking.default_uri("s3://bucket/some/runs")
    assert uri.startswith(f"sqlite:///{tmp_path}/mlflow/bucket-some-runs-")
    assert tracking.default_uri("s3://bucket/some-runs") != uri
    assert tracking.default_uri("/data/runs") == "sqlite:////data/runs/mlflow.db"


def test_a_node_without_the_mount_names_itself(folder: Path, tmp_path: Path) -> None:
    config, gone = PrepareConfig(), tmp_path / "gone"
    index = build_index("simulated", str(folder / "raw"), options=config.index)
    shard = shard_plan(index, config)[0][0]
    for root, out, named in ((gone, folder / "data", gone), (folder / "raw", gone, gone / "plan.json")):
        write = PrepareShard(str(root), str(out), config.quality, config.reader, "key")
        with pytest.raises(
            StorageError, match=f"^{named} is not there on the node {HERE}.*: mount it there at this path"
        ):
            write(shard)
    assert not gone.exists()
    Store(folder).write_json(PLAN, {})
    there = {"root": str(folder), "model": str(folder / "model"), "parts": str(folder)}
    for missing in there:
        with pytest.raises(StorageError, match=f"^{gone}.* is not there on the node {HERE}"):
            PredictFiles(**{**there, missing: str(gone)}, version="v", policy=config.quality, reader=config.reader)
