"""Runs that look finished, with small models that nobody trained."""

from __future__ import annotations

from pathlib import Path

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import to_dict
from ecgmoe.model.config import ModelConfig
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.identity import code_revision, run_identity
from model_examples import saved_model

CONFIG = RunConfig(
    backbones=(
        BackboneConfig(name="dlinear", size="tiny"),
        BackboneConfig(name="timesnet", size="tiny", mode="cached", allow_random=True),
    ),
    model=ModelConfig(width=16),
)


def finished_run(storage: Path, name: str, data: Path, seed: int = 0, *, track: bool = False) -> Store:
    """STORAGE/NAME as a training on `data` leaves it; with `track` its MLflow run is there too."""
    run = Store(storage / name)
    saved_model(storage / name / "model", seed=seed, config=CONFIG.model)
    run.write_json("config.json", {**run_identity(CONFIG, PreparedData(str(data))), "code": code_revision()})
    uri, run_id = tracking.default_uri(str(storage)), "none"
    if track:
        run_id = tracking.create_run(uri, name, to_dict(CONFIG), {}, artifacts=str(storage / "mlflow-artifacts"))
    run.write_json("mlflow.json", {"run_id": run_id, "tracking_uri": uri})
    return run
