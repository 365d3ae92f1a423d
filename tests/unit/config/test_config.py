"""Configurations survive the way through JSON, and a wrong value is refused with its remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.cli import take_preset
from ecgmoe.config import PRESETS, RunConfig
from ecgmoe.config_tools import differing_keys, from_dict, to_dict
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.training.config import TrainingConfig


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_survive_json(preset: Callable[[], RunConfig]) -> None:
    config = preset()
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_differing_keys_names_leaves() -> None:
    old, new = to_dict(PRESETS["tiny"]()), to_dict(PRESETS["tiny"]())
    new["training"]["epochs"] = 3
    new["backbones"][1]["size"] = "base"
    del new["taxonomy"]
    assert differing_keys(old, new) == [
        'backbones.1.size: "tiny" -> "base"',
        'taxonomy: "rhythm15" -> null',
        "training.epochs: 25 -> 3",
    ]


def test_an_unknown_key_is_refused() -> None:
    values = to_dict(PRESETS["tiny"]())
    values["model"]["widht"] = 64
    with pytest.raises(ValueError, match="widht"):
        from_dict(RunConfig, values)


def test_a_younger_option_has_its_default() -> None:
    config = PRESETS["tiny"]()
    values = to_dict(config)
    del values["training"]["epsilon"], values["backbones"][2]["feature_type"]
    assert from_dict(RunConfig, values) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingConfig(num_workers=3), "num_workers 3 must divide slots 8"),
        (lambda: TrainingConfig(global_batch=30), "slots 8 must divide global_batch 30"),
        (lambda: TrainingConfig(accumulation=3), "accumulation 3 must divide the 16 records"),
        (lambda: TrainingConfig(learning_rate=0), "learning_rate must be > 0"),
        (lambda: ModelConfig(attention_heads=5), "attention_heads must divide width"),
        (lambda: ModelConfig(dropout=1.0), "dropout must be in"),
        (lambda: ModelConfig(morphology_kernels=(4,)), "morphology_kernels must be odd"),
        (lambda: LossConfig(temperature=0), "temperature must be > 0"),
        (lambda: BackboneConfig(name="moment", mode="cached"), "random weights that nothing trains"),
        (lambda: RunConfig(backbones=()), "paths='both' with 0 backbones"),
        (
            lambda: RunConfig(backbones=(), model=ModelConfig(paths="periodic")),
            "the contrastive term compares the two paths",
        ),
        (lambda: ModelConfig(morphology_kernels=(), rhythm_dilations=()), "the periodic path needs an expert"),
        (lambda: LossConfig(task_weights={"rr": 2.0}), "task_weights belong to task_weighting 'fixed'"),
        (lambda: LossConfig(task_weighting="fixed", task_weights={"rr": -1.0}), "task_weights must be >= 0"),
        (
            lambda: RunConfig(
                backbones=(BackboneConfig(name="a"),),
                loss=LossConfig(task_weighting="fixed", task_weights={"qt": 1.0}),
            ),
            "task_weights for qt, which this run does not have",
        ),
        (lambda: RunConfig(backbones=(BackboneConfig(name="a"), BackboneConfig(name="a"))), "named twice"),
        (lambda: RunConfig(backbones=(BackboneConfig(name="a"),), tasks=("rr", "sexx")), "unknown task 'sexx'"),
        (lambda: RunConfig(backbones=(BackboneConfig(name="a"),), taxonomy="x"), "unknown taxonomy 'x'"),
        (
            lambda: RunConfig(
                backbones=(BackboneConfig(name="a"),),
                model=ModelConfig(gate=False),
                loss=LossConfig(load_balance_weight=0.1),
            ),
            "without a gate over experts that could learn it",
        ),
        (
            lambda: RunConfig(backbones=(BackboneConfig(name="a"),), loss=LossConfig(backbone_cost_weight=0.1)),
            "backbone_cost_weight 0.1 where every record takes all backbones",
        ),
        (lambda: LossConfig(backbone_cost_weight=-1), "backbone_cost_weight must be >= 0, got -1"),
        (lambda: TrainingConfig(engine="ddp"), "set zero_stage to 0"),
        (lambda: TrainingConfig(offload="parameters"), "needs zero_stage 3 or more, got 1"),
        (lambda: TrainingConfig(bucket_mb=0), "bucket_mb must be > 0"),
        (lambda: TrainingConfig(momentum=1.0), r"momentum must be in \[0, 1\)"),
    ],
)
def test_wrong_values_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_command_line_needs_neither_torch_nor_ray() -> None:
    modules = "sys, ecgmoe.config, ecgmoe.pipeline.config, ecgmoe.cli"
    program = f"import {modules}; print([name for name in ('torch', 'ray') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_preset_of_ones_own_is_a_function_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_presets.py").write_text("from ecgmoe.config import tiny\n\n\ndef quick():\n    return tiny()\n")
    monkeypatch.syspath_prepend(tmp_path)
    name, preset, rest = take_preset(["my_presets:quick", "--run", "x"], PRESETS, "tiny")
    assert (name, preset, rest) == ("quick", PRESETS["tiny"](), ["--run", "x"])
    with pytest.raises(ValueError, match=r"preset my_presets:slow: .*with the folder of the module on PYTHONPATH"):
        take_preset(["my_presets:slow"], PRESETS, "tiny")
    with pytest.raises(ValueError, match="preset absent_lab:x: No module named 'absent_lab'"):
        take_preset(["absent_lab:x"], PRESETS, "tiny")
