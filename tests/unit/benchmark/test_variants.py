"""What is counted is what is there."""

from __future__ import annotations

import pytest

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.benchmark.variants import variants_benchmark
from ecgmoe.config import RunConfig
from ecgmoe.model.config import ModelConfig
from ecgmoe.variants import VARIANTS


def test_every_variant_is_counted() -> None:
    backbones = (BackboneConfig(name="dlinear"), BackboneConfig(name="moment", mode="cached", allow_random=True))
    found = variants_benchmark(RunConfig(backbones=backbones, model=ModelConfig(width=16)), records=2)["variants"]
    assert set(found) == {*VARIANTS, "single_dlinear", "single_moment"}
    whole = found["ecg_moe"]
    for name in (
        "no_rhythm_experts",
        "no_morphology_experts",
        "no_periodic_path",
        "no_lora",
        "no_gate",
        "no_contrastive_term",
    ):
        assert found[name]["trained_parameters"] < whole["trained_parameters"], name
    # A cached backbone costs nothing here; its linear head does: projection of 4 tokens of 64, then 19 outputs.
    single = found["single_moment"]
    assert single["trained_parameters"] == 2 * 64 + (64 * 16 + 16) + 19 * (16 + 1)
    assert single["forward_mflop_per_record"] == pytest.approx(2 * (4 * 64 * 16 + 19 * 16) / 1e6)
    assert single["activation_mb_per_record"] > 0
