"""A loss that is not finite costs a run, or one batch of it; too little memory says what to turn down."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch.multiprocessing import ProcessExitedException

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.model.config import ModelConfig
from ecgmoe.pipeline.prepared import PreparedData, row_groups, split_rows
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.checkpoint_store import CheckpointStore
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.plan import epoch_plan
from ecgmoe.training.watch import HANGS
from fault_examples import hang, run_out_of_memory, run_with_an_extreme_label
from prepared_examples import simulated_and_prepared
from training_examples import job_of

pytestmark = pytest.mark.distributed

STEPS = 6
"""Of an epoch."""
RUNS = {
    # by name: ZeRO stage, batches that may be left out, the run whose list of them it begins with
    "stops": (1, 0, None),
    "leaves out": (1, 2, None),
    "knows": (1, 2, "leaves out"),
    "leaves out one": (1, 1, None),
    # DeepSpeed does not see what is not finite here, and the weights are spoilt.
    "leaves out, stage 0": (0, 2, None),
    "knows, stage 0": (0, 2, "leaves out, stage 0"),
}


def config(**training: Any) -> RunConfig:
    options = {"num_workers": 2, "epochs": 2, "log_every": 5, "global_batch": 8, "slots": 4, "checkpoint_every": 2}
    return RunConfig(
        backbones=(BackboneConfig(name="dlinear", size="tiny", mode="full"),),
        model=ModelConfig(width=16),
        training=TrainingConfig(**{**options, **training}),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    simulated_and_prepared(root, patients=25, studies=60)
    return root


@pytest.fixture(scope="module")
def study(root: Path) -> int:
    """One that both epochs train on, in the first after some checkpoints."""
    labels = PreparedData(str(root / "data")).labels()
    rows = split_rows(labels, "train")
    groups = row_groups(labels)[rows]
    first, second = (epoch_plan(rows, groups, global_batch=8, slots=4, seed=0, epoch=each).rows for each in range(2))
    row = next(row for row in first[4].ravel() if row in second)
    return int(labels["study_id"][int(row)].as_py())


@pytest.fixture(scope="module")
def runs(root: Path, study: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    # First those that find out, then those that begin with what these found.
    for knows in (False, True):
        names = [name for name, (_, _, known) in RUNS.items() if bool(known) == knows]
        jobs = []
        for name in names:
            stage, skip, known = RUNS[name]
            job = job_of(config(zero_stage=stage, skip_not_finite=skip), root / "data")
            job["run"] = str(root / name)
            job["mlflow_run_id"] = tracking.create_run(job["tracking_uri"], name, {}, {}, str(root / "artifacts"))
            if known:
                Store(root / name).write_text("faults/left-out.json", left_out(root / known).read_text())
            jobs.append(job)
        ranks = run_distributed(run_with_an_extreme_label, 2, jobs, study)
        assert [each["error"] for each in ranks[0]] == [each["error"] for each in ranks[1]]
        found |= dict(zip(names, ranks[0], strict=True))
    return found


def left_out(run: Path) -> Path:
    return run / "faults" / "left-out.json"


def test_a_run_stops_with_the_studies_written_down(root: Path, study: int, runs: dict[str, dict[str, Any]]) -> None:
    (path,) = (root / "stops" / "faults").iterdir()
    batch = json.loads(path.read_text())
    assert study in batch["study_ids"]
    assert len(batch["study_ids"]) == 8
    assert set(batch["not_finite"]) & {"sex", "gradient"}
    assert path.name == f"not-finite-step-{batch['step']:08d}.json"
    error = runs["stops"]["error"]
    assert (
        f"not finite at step {batch['step']} (epoch 1, batch {batch['batch'] + 1}); its study ids are in {path}"
        in error
    )
    assert error.endswith("--training.skip-not-finite 1")


def test_no_checkpoint_has_seen_such_a_batch(root: Path, runs: dict[str, dict[str, Any]]) -> None:
    (path,) = (root / "stops" / "faults").iterdir()
    saved = [each.step for each in CheckpointStore(Store(root / "stops")).committed()]
    # Those of the last two steps of every two before it.
    before = range(2, json.loads(path.read_text())["step"], 2)
    assert saved == list(before)[-2:]


@pytest.mark.parametrize("name", ["leaves out", "leaves out, stage 0"])
def test_a_run_goes_on_without_them(root: Path, study: int, runs: dict[str, dict[str, Any]], name: str) -> None:
    batches = json.loads(left_out(root / name).read_text())
    assert [batch["epoch"] for batch in batches] == [0, 1]
    assert all(study in batch["study_ids"] for batch in batches)
    assert runs[name]["error"] == ""
    assert runs[name]["finite"]
    assert CheckpointStore(Store(root / name)).committed()[-1].step == 2 * STEPS


@pytest.mark.parametrize("name", ["leaves out", "leaves out, stage 0"])
def test_it_is_the_run_that_never_saw_them(runs: dict[str, dict[str, Any]], name: str) -> None:
    """Bit for bit: it went back to a checkpoint from before each of them."""
    never = runs[name.replace("leaves out", "knows")]
    assert never["error"] == ""
    for key, value in never["state"].items():
        assert torch.equal(runs[name]["state"][key], value), key


def test_more_than_allowed_stop_the_run(root: Path, runs: dict[str, dict[str, Any]]) -> None:
    assert len(json.loads(left_out(root / "leaves out one").read_text())) == 1
    assert "(epoch 2, batch" in runs["leaves out one"]["error"]
    assert runs["leaves out one"]["error"].endswith("--training.skip-not-finite 2")


def test_the_curve_in_mlflow_is_finite(root: Path, runs: dict[str, dict[str, Any]]) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "ecgmoe"]
    for run in client.search_runs([experiment.experiment_id]):
        if run.info.run_name.startswith("leaves out"):
            values = [each.value for each in client.get_metric_history(run.info.run_id, "train/loss_sex")]
            assert values
            assert all(value < 1e6 for value in values)


def test_too_little_memory_says_what_to_turn_down(root: Path) -> None:
    # Wide enough that its first forward pass asks for more than is left.
    wide = replace(config(num_workers=1, checkpoint_every=0), model=ModelConfig(width=128))
    job = job_of(wide, root / "data")
    job["run"] = str(root / "memory")
    job["mlflow_run_id"] = tracking.create_run(job["tracking_uri"], "memory", {}, {}, str(root / "artifacts"))
    (said,) = run_distributed(run_out_of_memory, 1, job, 8 << 20)
    assert (
        "the worker is out of memory: turn up or change --training.accumulation (now 1: micro-batches of 8 records)"
        in said
    )
    assert "--training.zero-stage (now 1)" in said


def test_ranks_that_hang_write_their_stacks_and_end(tmp_path: Path) -> None:
    with pytest.raises(ProcessExitedException, match=f"exit code {HANGS}"):
        run_distributed(hang, 2, str(tmp_path), 3.0, log=tmp_path / "said")
    stacks = {path.name[-10:]: path.read_text() for path in (tmp_path / "faults").glob("hanging-*")}
    # torch ends the other rank as soon as one has ended, perhaps before it has written.
    assert stacks
    for text in stacks.values():
        waited = re.search(r"made no progress for (\d+) s while step 7", text)
        assert waited, text
        assert int(waited.group(1)) >= 3
        assert "fault_examples.py" in text
    if "rank-1.txt" in stacks:
        assert "time.sleep(600)" in stacks["rank-1.txt"]
