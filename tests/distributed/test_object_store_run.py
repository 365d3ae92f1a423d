"""The whole way on S3: records, features, checkpoints, MLflow's artifacts, reports and predictions; nothing on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import ray
import s3fs

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig, tiny
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.inference.predict_files import write_predictions
from ecgmoe.model.config import ModelConfig
from ecgmoe.pipeline.prepare import prepare
from ecgmoe.pipeline.ray_data import connect
from ecgmoe.pipeline.store import Store
from ecgmoe.workflow import run
from jobs_here import job_here
from object_store import BUCKET, object_store, objects, uploads

pytestmark = [pytest.mark.distributed, pytest.mark.ray]

ROOT = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray whose workers know the object store, and everything else that is written under a folder of its own."""
    folder = tmp_path_factory.mktemp("s3")
    with pytest.MonkeyPatch.context() as patch, object_store(folder / "log"):
        patch.setenv("ECGMOE_HOME", str(folder / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        simulate(folder / "raw", SimulationConfig(patients=40, studies=96, seed=3))
        s3fs.S3FileSystem(skip_instance_cache=True).put(f"{folder / 'raw'}/", f"{BUCKET}/raw/", recursive=True)
        connect(num_cpus=2)
        yield
        ray.shutdown()


def small(epochs: int) -> RunConfig:
    """Two backbones, one of them cached, and one worker."""
    backbones = (
        BackboneConfig(name="dlinear", size="tiny", mode="full"),
        BackboneConfig(name="moment", size="tiny", mode="cached", allow_random=True),
    )
    training = replace(tiny().training, epochs=epochs, num_workers=1, global_batch=16)
    return RunConfig(backbones=backbones, model=ModelConfig(width=16), loss=tiny().loss, training=training)


@pytest.mark.usefixtures("on_s3")
@pytest.mark.long
def test_the_whole_way() -> None:
    manifest = prepare("simulated", f"{ROOT}/raw", f"{ROOT}/data")
    assert manifest["records"] > 80
    metrics = run(small(epochs=1), name="k", storage=f"{ROOT}/runs", data=f"{ROOT}/data")
    assert metrics["tasks"]["rr"]["n"] > 0
    # A second one is done at once: everything is found where it was written.
    assert prepare("simulated", f"{ROOT}/raw", f"{ROOT}/data") == manifest
    assert run(small(epochs=1), name="k", storage=f"{ROOT}/runs", data=f"{ROOT}/data") == metrics
    done = write_predictions(f"{ROOT}/runs/k/model", f"{ROOT}/raw/files", f"{ROOT}/out/all.parquet")
    assert done.predicted + done.refused == 96
    with Store(f"{ROOT}/out").parquet("all.parquet") as file:
        assert file.metadata.num_rows == 96
    keys = sorted(objects())
    folders = {"/".join(key.split("/")[:3]) for key in keys if key.startswith("runs/k/")}
    assert folders >= {f"runs/k/{name}" for name in ("checkpoints", "model", "report", "predictions", "mlflow.json")}
    assert any(key.startswith("data/features/moment-") for key in keys)
    assert any(key.startswith("runs/mlflow-artifacts/") and key.endswith("report/metrics.json") for key in keys)
    assert [key for key in keys if ".parts" in key or ".writable" in key] == []
    assert uploads() == []


@pytest.mark.usefixtures("on_s3")
def test_a_missing_bucket_is_one_line() -> None:
    options = ["--dataset", "simulated", "--root", f"{ROOT}/raw", "--out", "s3://absent/data"]
    said = job_here("prepare", *options, expect=2)
    assert "error: cannot read s3://absent/data/manifest.json: there is no bucket absent at http://127.0.0.1:" in said
    assert "Traceback" not in said
