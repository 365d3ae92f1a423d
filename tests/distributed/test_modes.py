"""Backbones in every mode under DeepSpeed: what should train changes and nothing else; cached and live are one function."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.training.config import TrainingConfig
from prepared_examples import embed_here, simulated_and_prepared
from training_examples import job_of, train_some

pytestmark = pytest.mark.distributed

NAMES = ("timesnet", "dlinear", "moment", "tempo", "ecgfm")
MIXES: dict[str, tuple[dict[str, Any], ...]] = {
    # Each backbone in another mode, twice; random weights where nothing trains are asked for.
    "a": (
        {"mode": "full"},
        {"mode": "frozen", "allow_random": True},
        {"mode": "lora", "allow_random": True},
        {"mode": "cached", "allow_random": True},
        {"mode": "full", "gradient_checkpointing": True},
    ),
    "b": (
        {"mode": "cached", "allow_random": True},
        {"mode": "full"},
        {"mode": "full", "gradient_checkpointing": True},
        {"mode": "lora", "allow_random": True},
        {"mode": "lora", "allow_random": True, "gradient_checkpointing": True},
    ),
}
STAGES = (0, 2, 3)
UNUSED = {"backbones.moment.net.patch_embedding.mask_embedding"}
"""Stands for unobserved patches: a canonical record has none, so it never gets a gradient."""
LIVE = {"frozen": {"mode": "frozen"}, "fp32": {"mode": "cached", "feature_type": "fp32"}, "fp16": {"mode": "cached"}}


def config(options: tuple[dict[str, Any], ...], **training: Any) -> RunConfig:
    return RunConfig(
        backbones=tuple(BackboneConfig(name=name, **each) for name, each in zip(NAMES, options, strict=True)),
        model=ModelConfig(width=16, dropout=0.0),
        # Every loss alone decides: no clipping could hide a difference.
        loss=LossConfig(contrastive_weight=0.1),
        training=TrainingConfig(num_workers=2, epochs=2, global_batch=16, clip_norm=1e9, **training),
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    data = simulated_and_prepared(tmp_path_factory.mktemp("modes"), patients=40, studies=100)
    configs = {f"{mix} at {stage}": config(MIXES[mix], zero_stage=stage) for mix in MIXES for stage in STAGES}
    for name, options in LIVE.items():
        configs[name] = config(tuple({**options, "allow_random": True} for _ in NAMES), zero_stage=1)
    jobs = []
    for each in configs.values():
        jobs.append({**job_of(each, data), "features": embed_here(data, each.cached)})
    ranks = run_distributed(train_some, 2, jobs, 3)
    return dict(zip(configs, ranks[0], strict=True))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("mix", MIXES)
def test_what_should_train_changes_and_nothing_else(results: dict[str, dict[str, Any]], mix: str, stage: int) -> None:
    result = results[f"{mix} at {stage}"]
    changed = {name for name, value in result["state"].items() if not torch.equal(value, result["start"][name])}
    trained = set(result["trained"])
    assert changed == trained - UNUSED
    for name, options in zip(NAMES, MIXES[mix], strict=True):
        own = {key for key in result["state"] if key.startswith(f"backbones.{name}.")}
        assert bool(own) == (options["mode"] != "cached"), "a cached backbone is not in the graph"
        if options["mode"] == "lora":
            assert own & changed == {key for key in own if ".lora_" in key}
        else:
            assert bool(own & changed) == (options["mode"] == "full")


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("stage", [2, 3])
def test_the_stages_agree(results: dict[str, dict[str, Any]], mix: str, stage: int) -> None:
    found, expected = (torch.tensor(results[f"{mix} at {each}"]["losses"]) for each in (stage, 0))
    # The first loss is a sum in fp32, in another order at most; the third follows two AdamW steps, which enlarge that.
    assert torch.allclose(found[0], expected[0], rtol=1e-6)
    assert torch.allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(("kind", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-3)])
def test_cached_and_frozen_are_one_function(results: dict[str, dict[str, Any]], kind: str, tolerance: float) -> None:
    cached, live = (torch.tensor(results[each]["losses"]) for each in (kind, "frozen"))
    assert torch.allclose(cached, live, rtol=tolerance)
