"""A model survives its folder, and a foreign or torn folder is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.model.files import CONFIG, WEIGHTS
from ecgmoe.model.folder import ModelFolderError, load_model
from model_examples import batch, saved_model


def test_a_loaded_model_predicts_the_same_from_waveforms_alone(tmp_path: Path) -> None:
    net = saved_model(tmp_path)
    loaded, config = load_model(tmp_path)
    whole = batch()
    cached = loaded.backbones["timesnet"](to_millivolt(whole.signal))
    whole.features = {}
    with torch.no_grad():
        found = loaded(whole).predictions
        whole.features = {"timesnet": cached}
        expected = net(whole).predictions
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert config["classes"]["arrhythmia"][14] == "sinus rhythm"
    assert config["backbones"][0]["provenance"] is None


def test_it_loads_without_ray_and_deepspeed(tmp_path: Path) -> None:
    saved_model(tmp_path)
    program = (
        "import sys; from pathlib import Path; from ecgmoe.model.folder import load_model; load_model(Path(sys.argv[1]));"
        "print([name for name in ('ray', 'deepspeed') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_foreign_and_torn_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"is not a model folder: config\.json is missing"):
        load_model(tmp_path)
    saved_model(tmp_path)
    good_weights, good_config = (tmp_path / WEIGHTS).read_bytes(), (tmp_path / CONFIG).read_text()
    (tmp_path / WEIGHTS).write_bytes(good_weights[: len(good_weights) // 2])
    with pytest.raises(ModelFolderError, match="does not hold the weights of this model"):
        load_model(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(good_weights)
    (tmp_path / CONFIG).write_text("{}")
    with pytest.raises(ModelFolderError, match="has no format_version"):
        load_model(tmp_path)
    (tmp_path / CONFIG).write_text(good_config[:100])
    with pytest.raises(ModelFolderError, match="not the configuration of a model"):
        load_model(tmp_path)
    wider = json.loads(good_config)
    wider["model"]["width"] = 32
    (tmp_path / CONFIG).write_text(json.dumps(wider))
    with pytest.raises(ModelFolderError, match="does not hold the weights of this model"):
        load_model(tmp_path)
