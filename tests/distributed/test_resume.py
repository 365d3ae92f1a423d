"""An interrupted run is the run without interruption: weights and their mean, order, best score and MLflow's curve, bit for
bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.checkpoint_store import CheckpointStore
from ecgmoe.training.config import Augmentation, TrainingConfig
from prepared_examples import simulated_and_prepared
from resume_examples import run_jobs
from training_examples import job_of

pytestmark = pytest.mark.distributed

CLOCK = {"train/records_per_s", "train/data_wait_share", "train/memory_gb"}

EPOCHS, LOG_EVERY, STEPS_PER_EPOCH, DROPPED = 2, 5, 6, 4
STEPS = EPOCHS * STEPS_PER_EPOCH
STAGES = (0, 1, 2, 3)
CASES: dict[str, tuple[int, int, list[int | str]]] = {
    # Every second step has a checkpoint, so that most of them cut an interval of logging.
    **{f"stage {stage}, often": (stage, 2, [3, "validation", 7, 9, "validation"]) for stage in (1, 3)},
    **{f"stage {stage}, once": (stage, 2, [7]) for stage in (0, 2)},
    # The ends of the epochs alone have one.
    "stage 1, at the ends of epochs": (1, 0, ["validation", 8]),
}
"""By name: ZeRO stage, checkpoint_every, and where the attempts end."""


def config(dropout: float = 0.3, **training: Any) -> RunConfig:
    """With dropout, of which each rank draws its own, augmented records, and a mean of the weights."""
    return RunConfig(
        backbones=(BackboneConfig(name="dlinear", size="tiny", mode="full"),),
        model=ModelConfig(width=16, dropout=dropout),
        loss=LossConfig(contrastive_weight=0.1),
        training=TrainingConfig(
            num_workers=2,
            epochs=EPOCHS,
            log_every=LOG_EVERY,
            global_batch=8,
            slots=4,
            weight_average=0.5,
            augmentation=Augmentation(amplitude=0.2, lead_dropout=0.2, noise_uv=20, shift_ms=200),
            **training,
        ),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("resume")
    data = simulated_and_prepared(root, patients=25, studies=60)
    jobs: dict[str, dict[str, Any]] = {}

    def add(name: str, stops: list[int | str], **training: Any) -> None:
        job = job_of(config(**training), data)
        uri = job["tracking_uri"]
        job["mlflow_run_id"] = tracking.create_run(uri, name, {}, {}, artifacts=str(root / "artifacts"))
        job["run"] = str(root / name)
        jobs[name] = {"job": job, "stops": stops}

    for stage in STAGES:
        add(f"stage {stage}", [], zero_stage=stage)
    for name, (stage, every, stops) in CASES.items():
        add(name, stops, zero_stage=stage, checkpoint_every=every)
    add("without dropout", [], dropout=0.0)
    ranks = run_distributed(run_jobs, 2, list(jobs.values()))
    found = {}
    for name, *each in zip(jobs, *ranks, strict=True):
        job = jobs[name]["job"]
        curves = curves_of(job["tracking_uri"], job["mlflow_run_id"])
        last = CheckpointStore(Store(root / name)).committed()[-1]
        stands = json.loads((root / name / "checkpoints" / last.name / "position.json").read_text())
        found[name] = {**each[0], "seen": [rank["seen"] for rank in each], "curves": curves, "stands": stands}
    return found


def curves_of(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Every metric that a run logged, but for those of time, with its steps."""
    client = MlflowClient(tracking_uri=uri)
    # What depends on the clock or on the process is left out.
    names = sorted(set(client.get_run(run_id).data.metrics) - CLOCK)
    return {name: [(each.step, each.value) for each in client.get_metric_history(run_id, name)] for name in names}


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_run_ends_bit_identical(runs: dict[str, dict[str, Any]], name: str) -> None:
    found, expected = runs[name], runs[name.partition(",")[0]]
    assert set(found["state"]) == set(expected["state"])
    for key, value in expected["state"].items():
        assert torch.equal(found["state"][key], value), key
        assert torch.equal(found["mean"][key], expected["mean"][key]), key
    assert found["seen"] == expected["seen"]
    # With the best score so far, which says whether a later checkpoint is the one to keep.
    assert found["stands"] == expected["stands"]
    assert found["stands"]["position"]["best_score"] is not None
    assert found["reported"][-1] == expected["reported"][-1]


@pytest.mark.parametrize("name", CASES)
def test_the_curve_in_mlflow_has_no_gap_and_no_step_twice(runs: dict[str, dict[str, Any]], name: str) -> None:
    found, expected = runs[name]["curves"], runs[name.partition(",")[0]]["curves"]
    assert found == expected
    assert [step for step, _ in found["train/loss_rr"]] == [*range(LOG_EVERY, STEPS, LOG_EVERY), STEPS]
    assert [step for step, _ in found["validation/score"]] == [STEPS_PER_EPOCH, STEPS]
    assert found["train/dropped_records"] == [(STEPS_PER_EPOCH, DROPPED), (STEPS, DROPPED)]


def test_steps_are_made_again_only_since_the_last_checkpoint(runs: dict[str, dict[str, Any]]) -> None:
    assert runs["stage 1"]["made"] == STEPS
    # Stopped one step after a checkpoint three times; a checkpoint before each validation saves both of them.
    assert runs["stage 1, often"]["made"] == STEPS + 3
    # The interrupted validation costs its epoch, and after step 8 the checkpoint is that of step 6.
    assert runs["stage 1, at the ends of epochs"]["made"] == STEPS + STEPS_PER_EPOCH + 2


def test_dropout_is_on(runs: dict[str, dict[str, Any]]) -> None:
    """Equality would mean little otherwise."""
    with_it, without = runs["stage 1"]["state"], runs["without dropout"]["state"]
    assert max((with_it[name] - without[name]).abs().max() for name in without) > 1e-4
