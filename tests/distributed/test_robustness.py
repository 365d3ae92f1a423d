"""jobs/robustness.py through Ray, beside jobs/evaluate.py: clean figures are its own, and the seed decides the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow import MlflowClient

from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.pipeline.config import PrepareConfig
from ecgmoe.pipeline.ray_data import connect
from finished_runs import finished_run
from jobs_here import job_here, last_line
from prepared_examples import prepare_here

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two runs on records in several shards, and a Ray of two CPUs."""
    folder = tmp_path_factory.mktemp("robustness")
    simulate(folder / "raw", SimulationConfig(patients=60, studies=120, seed=4))
    prepare_here(folder / "raw", folder / "data", PrepareConfig(shard_rows=32))
    for number, name in enumerate(("first", "plain")):
        finished_run(folder / "runs", name, folder / "data", seed=number, track=True)
    connect(num_cpus=2)
    yield folder / "runs"
    ray.shutdown()


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_curves_of_two_runs(storage: Path, tmp_path: Path) -> None:
    options = ["--storage", str(storage), "--perturbations", "muscle_noise", "gain"]
    said = job_here("robustness", "--runs", "first", "plain", *options)
    out = storage / "first" / "robustness"
    assert last_line(said) == f"page   {out / 'robustness.html'}"
    assert "! SIMULATED DATA" in said
    summary = json.loads((out / "robustness.json").read_text())
    shards = {path.name for path in (out / "predictions" / "plain").iterdir()}
    assert len(shards) > 2, "two actors have more than one shard each"

    # Level 0 is the evaluation: the same figures, to the last bit.
    job_here("evaluate", "--run", "first", "--storage", str(storage))
    report = json.loads((storage / "first" / "report" / "metrics.json").read_text())["tasks"]
    clean = [p for p in summary["points"] if (p["run"], p["perturbation"]) == ("first", "clean")]
    assert {(p["task"], p["metric"]): p["value"] for p in clean} == {
        (p["task"], p["metric"]): report[p["task"]][p["metric"]] for p in clean
    }
    assert len(clean) == 6

    # Again elsewhere, by the other order of runs, which changes no prediction and no figure.
    job_here("robustness", "--runs", "plain", "first", *options, "--out", str(tmp_path / "again"))
    first, again = content(out), content(tmp_path / "again")
    predictions = {name for name in first if name.startswith("predictions/")}
    assert len(predictions) == 2 * len(shards)
    assert {name: again[name] for name in predictions} == {name: first[name] for name in predictions}
    assert points(json.loads(again["robustness.json"])) == points(summary)
    check_tracking(storage, summary)

    said = job_here("robustness", "--runs", "first", "--storage", str(storage), "--seed", "1", expect=2)
    assert last_line(said).startswith(f"error: {out} holds other curves (")
    assert "seed: 0 -> 1" in said


def points(summary: dict[str, Any]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Figures by what they are of; the constants' own are said once, by whichever run is first."""
    keys = ("run", "perturbation", "strength", "task", "metric")
    return {tuple(point[key] for key in keys): tuple(point.values()) for point in summary["points"]}


def check_tracking(storage: Path, summary: dict[str, Any]) -> None:
    """The first run's MLflow run has its figures and all files."""
    known = json.loads((storage / "first" / "mlflow.json").read_text())
    client = MlflowClient(known["tracking_uri"])
    logged = client.get_run(known["run_id"]).data.metrics
    (point,) = [
        point
        for point in summary["points"]
        if (point["run"], point["task"], point["perturbation"], point["strength"]) == ("first", "age", "gain", 0.5)
    ]
    assert logged["robustness/gain_0.5/age_mae"] == point["value"]
    names = {Path(file.path).name for file in client.list_artifacts(known["run_id"], "robustness")}
    assert {"robustness.html", "robustness.json", "robustness.csv", "rr_mae.png", "sex_auroc.png"} <= names
