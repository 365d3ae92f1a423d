"""Masked reconstruction over workers: one result, whatever the layout and however often it was interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.pipeline.folds import write_folds
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.ray_data import connect
from ecgmoe.pipeline.store import Store
from ecgmoe.training.checkpoint_store import CheckpointStore
from ecgmoe.training.pretrained import WEIGHTS, pretraining_key
from ecgmoe.training.run import train
from prepared_examples import simulated_and_prepared
from pretraining_examples import NAME, pretrain, pretrained_run
from training_examples import job_of

pytestmark = pytest.mark.distributed

LAYOUTS: dict[str, dict[str, Any]] = {
    "one worker": {"num_workers": 1, "zero_stage": 1},
    "ZeRO 3": {"num_workers": 2, "zero_stage": 3},
    "DDP, two passes": {"num_workers": 2, "engine": "ddp", "zero_stage": 0, "accumulation": 2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated_and_prepared(tmp_path_factory.mktemp("pretraining"), patients=40, studies=70)


def run(data: Path, folder: Path, stops: tuple[int | None, ...] = (None,), **training: Any) -> list[list[float]]:
    """A run of this layout in `folder`; the losses of the global batches by attempt."""
    config = pretrained_run(**training)
    job = job_of(config, data) | {"run": str(folder)}
    attempts = []
    for stop in stops:
        shares = [found["losses"] for found in run_distributed(pretrain, config.training.num_workers, job, stop)]
        attempts.append([sum(each) for each in zip(*shares, strict=True)])
    return attempts


def test_layouts_have_one_result(data: Path, tmp_path: Path) -> None:
    losses, weights = {}, {}
    for name, layout in LAYOUTS.items():
        folder = tmp_path / name
        losses[name] = run(data, folder, **layout)[0]
        weights[name] = load_file(folder / WEIGHTS)
        # What was trained is what the run begins with; of the decoders nothing is left.
        checkpoints = CheckpointStore(Store(folder))
        model = load_file(checkpoints.store.path(f"{checkpoints.committed()[-1].name}/model/model.safetensors"))
        own = {key.removeprefix("backbones."): value for key, value in model.items() if key.startswith("backbones.")}
        assert own.keys() == weights[name].keys()
        assert all(torch.equal(own[key], value) for key, value in weights[name].items())
        assert not [key for key in model if "decoder" in key]
        assert not (folder / "pretraining" / "checkpoints").exists()
    first, *others = LAYOUTS
    for other in others:
        # As test_one_mathematics: fp32 sums in another order, enlarged by AdamW.
        assert losses[other] == pytest.approx(losses[first], rel=1e-4)
        for key, value in weights[first].items():
            assert (weights[other][key] - value).norm() <= 1e-4 * value.norm(), (other, key)
    half = len(losses[first]) // 2
    assert sum(losses[first][half:]) < sum(losses[first][:half])


def test_interrupted_and_continued_it_is_the_same_bit_for_bit(data: Path, tmp_path: Path) -> None:
    layout = {"num_workers": 1, "checkpoint_every": 2}
    ((*whole,),) = run(data, tmp_path / "whole", **layout)
    steps = len(whole)
    assert steps >= 8
    attempts = run(data, tmp_path / "parts", (3, 3, None), **layout)
    # From the checkpoint at step 2 on, and then from that at step 4.
    assert [len(each) for each in attempts] == [3, 3, steps - 4]
    assert whole == [*attempts[0][:2], *attempts[1][:2], *attempts[2]]
    parts, uninterrupted = load_file(tmp_path / "parts" / WEIGHTS), load_file(tmp_path / "whole" / WEIGHTS)
    assert all(torch.equal(parts[key], value) for key, value in uninterrupted.items())
    # What is done is not done again.
    assert run(data, tmp_path / "parts", **layout) == [[]]


def test_only_the_named_backbones_are_kept(data: Path, tmp_path: Path) -> None:
    config = pretrained_run(num_workers=1)
    config = replace(config, backbones=(BackboneConfig(name="dlinear", mode="full"), *config.backbones))
    run_distributed(pretrain, 1, job_of(config, data) | {"run": str(tmp_path / "run")}, None)
    assert {key.partition(".")[0] for key in load_file(tmp_path / "run" / WEIGHTS)} == {NAME}


def test_another_model_on_the_same_records_takes_it_instead_of_computing_the_same(data: Path, tmp_path: Path) -> None:
    first = pretrained_run(num_workers=1)
    # Of what is told apart here, the pre-training sees only its backbone.
    other = replace(
        pretrained_run(num_workers=2, accumulation=2, weight_average=0.9),
        backbones=(BackboneConfig(name="dlinear", mode="full"), *first.backbones),
        model=replace(first.model, width=24),
    )

    def losses(config: RunConfig, name: str, shared: Path | None) -> list[float]:
        job = job_of(config, data) | {"run": str(tmp_path / name), "shared": shared and str(shared)}
        return run_distributed(pretrain, config.training.num_workers, job, None)[0]["losses"]

    alone = losses(replace(other, training=replace(other.training, num_workers=1, accumulation=1)), "alone", None)
    assert losses(first, "first", tmp_path / "table") == alone != []
    assert losses(other, "other", tmp_path / "table") == []
    # Whoever was interrupted between its own file and the shared one leaves it at its next start.
    (left,) = (tmp_path / "table" / "pretraining").glob("*.safetensors")
    left.unlink()
    assert losses(first, "first", tmp_path / "table") == []
    assert left.exists()
    own, taken = load_file(tmp_path / "alone" / WEIGHTS), load_file(tmp_path / "other" / WEIGHTS)
    assert own.keys() == taken.keys()
    assert all(torch.equal(taken[key], value) for key, value in own.items())


def test_only_the_same_pretraining_is_shared(data: Path, tmp_path: Path) -> None:
    config, prepared = pretrained_run(num_workers=1), PreparedData(data)
    (backbone,) = config.backbones
    others = [
        replace(config, training=replace(config.training, seed=7)),
        replace(config, training=replace(config.training, global_batch=16)),
        replace(config, training=replace(config.training, precision="bf16")),
        replace(config, pretraining=replace(config.pretraining, epochs=3)),
        replace(config, pretraining=replace(config.pretraining, learning_rate=1e-3)),
        replace(config, backbones=(replace(backbone, seed=7),)),
    ]
    assert len({pretraining_key(each, prepared) for each in (config, *others)}) == 1 + len(others)
    (fold, *_) = write_folds(str(data), str(tmp_path / "folds"), folds=2)
    assert pretraining_key(config, PreparedData(fold)) != pretraining_key(config, prepared)


@pytest.mark.ray
def test_a_run_of_ray_train_has_the_curves_of_both(data: Path, tmp_path: Path) -> None:
    config = pretrained_run(num_workers=2, log_every=2)
    config = replace(config, training=replace(config.training, epochs=1))
    connect(2, dashboard=False)
    try:
        train(config, data=str(data), features={}, name="run", storage=str(tmp_path))
    finally:
        ray.shutdown()
    known = json.loads((tmp_path / "run" / "mlflow.json").read_text())
    client = MlflowClient(known["tracking_uri"])
    steps = {
        name: [each.step for each in client.get_metric_history(known["run_id"], name)]
        for name in (
            f"pretraining/train/loss_{NAME}",
            "pretraining/validation/score",
            "train/loss_age",
            "validation/score",
        )
    }
    of_an_epoch = steps["validation/score"][-1]
    assert steps["pretraining/validation/score"] == [of_an_epoch, 2 * of_an_epoch]
    assert steps[f"pretraining/train/loss_{NAME}"][0] == steps["train/loss_age"][0] == 2
    errors = client.get_metric_history(known["run_id"], f"pretraining/validation/{NAME}_mae")
    assert errors[1].value < errors[0].value
