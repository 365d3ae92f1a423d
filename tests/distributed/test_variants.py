"""Each variant trains on two ranks; all that it has trains, and what it leaves out is not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RESIDUAL_NETWORK, RunConfig
from ecgmoe.model.config import ModelConfig
from ecgmoe.training.config import TrainingConfig
from ecgmoe.variants import VARIANTS, variant
from prepared_examples import embed_here, simulated_and_prepared
from training_examples import job_of, train_some

pytestmark = pytest.mark.distributed

BASE = RunConfig(
    backbones=(BackboneConfig(name="dlinear"), BackboneConfig(name="timesnet")),
    model=ModelConfig(width=16, dropout=0.0),
    training=TrainingConfig(num_workers=2, epochs=2, global_batch=16),
)
LEFT_OUT = {
    "no_rhythm_experts": "periodic.rhythm.",
    "no_morphology_experts": "periodic.morphology.",
    "no_periodic_path": "periodic.",
    "no_multi_model_path": "multi_model.",
    "no_gate": "gate.U",
    "no_lora": "trunk.first.A",
    "no_contrastive_term": "contrast_m.",
    "moe": "periodic.",
    "multi_task_baseline": "trunk.",
    "single_dlinear": "backbones.timesnet.",
    "probe_timesnet": "backbones.",
    "residual_network": "backbones.dlinear.",
}
NAMES = (*VARIANTS, "single_dlinear", "probe_timesnet")
ATTENTIVE = ("time_moe", "self_attn", "cross_attn")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    data = simulated_and_prepared(tmp_path_factory.mktemp("variants"), patients=40, studies=100)
    configs = {name: variant(name, BASE) for name in NAMES}
    # Wide enough that ZeRO 3 shards attention's projections: small weights stay whole on every rank.
    wide = replace(BASE, model=replace(BASE.model, width=128))
    for stage in (0, 3):
        # AdamW takes steps as large for a gradient that is nothing but rounding.
        training = replace(BASE.training, zero_stage=stage, optimizer="sgd")
        for name in ATTENTIVE:
            configs[f"{name} at {stage}"] = replace(variant(name, wide), training=training)
        configs[f"sparse at {stage}"] = replace(
            wide,
            backbones=(*wide.backbones, RESIDUAL_NETWORK),
            model=replace(wide.model, backbones_per_record=1, late_backbones=(RESIDUAL_NETWORK.name,)),
            loss=replace(wide.loss, backbone_cost_weight=0.1),
            training=training,
        )
    whole = configs["sparse at 0"]
    configs["sparse in two passes"] = replace(whole, training=replace(whole.training, accumulation=2))
    jobs = [{**job_of(config, data), "features": embed_here(data, config.cached)} for config in configs.values()]
    return dict(zip(configs, run_distributed(train_some, 2, jobs, 3)[0], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]
    assert torch.tensor(result["losses"]).isfinite().all()
    moved = {key for key, value in result["state"].items() if not torch.equal(value, result["start"][key])}
    # A sparse mixture leaves experts alone that no record chose in these three steps.
    sparse = {key for key in result["trained"] if key.startswith("mixture.experts.")}
    assert moved | sparse == set(result["trained"])
    assert len({key.split(".")[2] for key in moved & sparse if key.endswith("bias")}) >= (2 if sparse else 0)


@pytest.mark.parametrize("name", [*ATTENTIVE, "sparse"])
def test_what_is_chosen_trains_sharded_as_whole(results: dict[str, dict[str, Any]], name: str) -> None:
    whole, sharded = (torch.tensor(results[f"{name} at {stage}"]["losses"]) for stage in (0, 3))
    # The same sums in another order, over three steps.
    assert torch.allclose(sharded, whole, rtol=1e-5)


def test_what_a_choice_costs_does_not_depend_on_the_passes(results: dict[str, dict[str, Any]]) -> None:
    whole, cut = (torch.tensor(results[f"sparse {how}"]["losses"]) for how in ("at 0", "in two passes"))
    assert whole.shape == (3, len(BASE.tasks) + 2)
    assert torch.allclose(cut, whole, rtol=1e-5)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_not_there(results: dict[str, dict[str, Any]], name: str) -> None:
    assert not [key for key in results[name]["trained"] if key.startswith(LEFT_OUT[name])]
    assert [key for key in results["ecg_moe"]["trained"] if key.startswith(LEFT_OUT[name])]


def test_without_task_conditioning_there_is_one_query(results: dict[str, dict[str, Any]]) -> None:
    shapes = {name: results[name]["state"]["periodic.query"].shape for name in ("ecg_moe", "no_task_conditioning")}
    assert shapes == {"ecg_moe": (5, 16), "no_task_conditioning": (1, 16)}


def test_a_probe_takes_the_weights_that_the_backbone_starts_from() -> None:
    lora = BackboneConfig(name="moment", mode="lora", allow_random=True, lora_rank=4, gradient_checkpointing=True)
    frozen = BackboneConfig(name="tempo", mode="frozen", allow_random=True)
    config = replace(BASE, backbones=(lora, frozen, BackboneConfig(name="timesnet", seed=3)))
    expected = {
        "moment": BackboneConfig(name="moment", mode="cached", allow_random=True),
        "tempo": frozen,
        "timesnet": BackboneConfig(name="timesnet", mode="cached", allow_random=True, seed=3),
    }
    for name, backbone in expected.items():
        assert variant(f"probe_{name}", config).backbones == (backbone,)
        assert variant(f"untrained_{name}", config).training.epochs == 0


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown variant 'no_heart': choose one of ecg_moe, moe, .*untrained_<backb"):
        variant("no_heart", BASE)
    with pytest.raises(ValueError, match="there is no backbone 'moment' among dlinear, timesnet"):
        variant("single_moment", BASE)
