"""A model that travels: saved, loaded, put on a hub and taken from it, it predicts the same; what is foreign is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ecgmoe
from ecgmoe.backbones import registry
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.inference.record_table import batch_of
from ecgmoe.model.config import ModelConfig
from ecgmoe.model.files import CONFIG, WEIGHTS
from ecgmoe.model.folder import ModelFolderError
from hub import TOKEN, hub
from model_examples import TASKS, TRAINED_ON, batch, model, saved_model, statistics

PTBXL = Path(__file__).parents[4] / "shared" / "data" / "ptbxl"


def embedded_model() -> ecgmoe.ECGMoE:
    """ECG-MoE with all five backbones in the graph, random weights."""
    names = ("timesnet", "dlinear", "moment", "tempo", "ecgfm")
    backbones = {name: registry.build(BackboneConfig(name=name, size="tiny", allow_random=True)) for name in names}
    torch.manual_seed(0)
    return ecgmoe.ECGMoE(
        ModelConfig(width=16),
        tasks=TASKS,
        widths={name: backbone.width for name, backbone in backbones.items()},
        statistics=statistics(),
        live=backbones,
        contrast=True,
    ).eval()


@pytest.mark.real_data
@pytest.mark.skipif(not PTBXL.is_dir(), reason="../shared/data/ptbxl is not there")
def test_saved_and_loaded_it_predicts_the_same_on_100_real_records(tmp_path: Path) -> None:
    net = embedded_model()
    net.save_pretrained(tmp_path / "model")
    loaded = ecgmoe.ECGMoE.from_pretrained(tmp_path / "model")
    headers = sorted(PTBXL.rglob("*.hea"))[:100]
    assert len(headers) == 100
    records = [read_usable(str(path.with_suffix("")), ReaderOptions(), QualityPolicy()) for path in headers]
    for start in range(0, 100, 25):
        whole = batch_of(records[start : start + 25])
        with torch.inference_mode():
            expected, found = net(whole).predictions, loaded(whole).predictions
        for task, value in expected.items():
            assert torch.isfinite(value).all()
            assert torch.equal(found[task], value), task


def test_saved_again_it_is_the_same_folder(tmp_path: Path) -> None:
    net = embedded_model()
    net.trained_on = TRAINED_ON
    net.save_pretrained(tmp_path / "first")
    again = ecgmoe.ECGMoE.from_pretrained(tmp_path / "first")
    assert again.trained_on == net.trained_on
    again.save_pretrained(tmp_path / "second")
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    config = json.loads((tmp_path / "first" / CONFIG).read_text())
    assert config["classes"]["sex"] == ["male", "female"]
    assert config["units"] == {"rr": "ms", "age": "years"}
    assert config["statistics"]["target_mean"] == {"rr": 800.0, "age": 60.0}
    assert config["preprocessing"]["version"] == 3
    assert config["preprocessing"]["leads"][0] == "I"


def test_a_model_without_all_its_backbones_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the backbones stored are cached and not part of this model"):
        model().save_pretrained(tmp_path)


def test_it_loads_and_predicts_where_ray_and_deepspeed_are_not_installed(tmp_path: Path) -> None:
    saved_model(tmp_path)
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['ray', 'deepspeed', 'mlflow']));"
        "import numpy as np; import ecgmoe;"
        "net = ecgmoe.ECGMoE.from_pretrained(sys.argv[1]);"
        "from ecgmoe.ecg.record import LEADS;"
        "ecg = np.random.default_rng(0).normal(0, 0.3, (12, 5000));"
        "print(sorted(ecgmoe.predict(ecg, fs=500, leads=LEADS, model=sys.argv[1]).tasks))"
    )
    out = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['age', 'arrhythmia', 'potassium', 'rr', 'sex']"


def test_records_of_another_preprocessing_are_warned_of(tmp_path: Path) -> None:
    saved_model(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    config["preprocessing"]["version"] = 2
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="trained on records of preprocessing version 2, and this version makes 3"):
        ecgmoe.ECGMoE.from_pretrained(tmp_path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"there is no model folder runs/first/none, and it is no owner/name"):
        ecgmoe.ECGMoE.from_pretrained("runs/first/none")
    with pytest.raises(
        ModelFolderError, match=r"there is no model folder lab/none on this machine, and the hub did not"
    ):
        ecgmoe.ECGMoE.from_pretrained("lab/none")
    saved_model(tmp_path)
    with pytest.raises(ModelFolderError, match="has no revision"):
        ecgmoe.ECGMoE.from_pretrained(tmp_path, revision="main")
    (tmp_path / CONFIG).write_text(json.dumps({"architectures": ["BertModel"], "hidden_size": 768}))
    with pytest.raises(ModelFolderError, match="not the configuration of an ecgmoe model: it has no format_version"):
        ecgmoe.ECGMoE.from_pretrained(tmp_path)
    (tmp_path / CONFIG).write_text("[]")
    with pytest.raises(ModelFolderError, match="not the configuration of an ecgmoe model"):
        ecgmoe.ECGMoE.from_pretrained(tmp_path)


def test_a_configuration_cannot_name_what_is_no_backbone(tmp_path: Path) -> None:
    saved_model(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    config["backbones"][0]["implementation"] = "subprocess:Popen"
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match="subprocess:Popen is no class of a backbone"):
        ecgmoe.ECGMoE.from_pretrained(tmp_path)


def on_hub(program: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own: the hub's client reads its address once, when it is imported."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys\nimport ecgmoe\n{program}", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_goes_to_a_hub_and_comes_back(tmp_path: Path) -> None:
    net = saved_model(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("card")
    (tmp_path / "model" / "notes about patients.txt").write_text("stays here")
    with hub() as there:
        mine = there.environment(HF_HOME=str(tmp_path / "cache"), HF_TOKEN=TOKEN)
        push = "from ecgmoe.inference.publish import publish\nprint(publish(sys.argv[1], 'lab/model'))"
        pushed = on_hub(push, mine, str(tmp_path / "model"))
        assert pushed.stdout.strip() == f"{there.endpoint}/lab/model", pushed.stderr
        assert there.private == {"lab/model": True}
        assert sorted(there.files["lab/model"]) == ["README.md", CONFIG, WEIGHTS]

        pull = (
            "import torch\nnet = ecgmoe.ECGMoE.from_pretrained('lab/model')\ntorch.save(net.state_dict(), sys.argv[1])\n"
            "from ecgmoe.inference.about_model import about_model\n"
            "from ecgmoe.inference.predictor import Predictor\n"
            "Predictor('hf://lab/model')\nprint(about_model('hf://lab/model').version)\n"
            "net.push_to_hub('lab/copy', private=False)"
        )
        pulled = on_hub(pull, mine, str(tmp_path / "state"))
        assert re.fullmatch(r"[0-9a-f]{12}", pulled.stdout.strip()), pulled.stderr
        assert there.files["lab/copy"][WEIGHTS] == there.files["lab/model"][WEIGHTS]
        assert there.private["lab/copy"] is False

        nobody = there.environment(HF_HOME=str(tmp_path / "other"), HF_TOKEN="hf_wrong")
        assert (
            "ModelFolderError: the hub did not take lab/other"
            in on_hub(
                "from ecgmoe.inference.publish import publish\npublish(sys.argv[1], 'lab/other')",
                nobody,
                str(tmp_path / "model"),
            ).stderr
        )
        missing = on_hub("ecgmoe.ECGMoE.from_pretrained('lab/missing')", nobody).stderr
        assert (
            "ModelFolderError: there is no model folder lab/missing on this machine, and the hub did not give"
            in missing
        )
    state = torch.load(tmp_path / "state", weights_only=True)
    for name, value in net.state_dict().items():
        assert torch.equal(state[name], value), name


def test_a_model_of_a_hub_runs_no_module_that_was_not_imported(tmp_path: Path) -> None:
    saved_model(tmp_path / "model")
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    config["backbones"][0]["implementation"] = "planted:Backbone"
    (tmp_path / "planted.py").write_text("raise SystemExit('it ran')")
    with hub() as there:
        there.files["lab/planted"] = {
            CONFIG: json.dumps(config).encode(),
            WEIGHTS: (tmp_path / "model" / WEIGHTS).read_bytes(),
        }
        here = there.environment(
            HF_HOME=str(tmp_path / "cache"), PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path])
        )
        for program in (
            "ecgmoe.ECGMoE.from_pretrained('lab/planted')",
            "from ecgmoe.inference.predictor import Predictor\nPredictor('hf://lab/planted')",
        ):
            done = on_hub(program, here)
            assert "it ran" not in done.stderr
            assert "import planted first, if you trust it" in done.stderr


def test_a_torn_model_or_one_without_card_is_not_published(tmp_path: Path) -> None:
    from ecgmoe.inference.publish import publish

    saved_model(tmp_path)
    with pytest.raises(ModelFolderError, match=r"README\.md is missing, the card"):
        publish(str(tmp_path), "lab/model")
    (tmp_path / "README.md").write_text("card")
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ModelFolderError, match="does not hold the weights"):
        publish(str(tmp_path), "lab/model")


def test_what_only_training_needs_is_left_out(tmp_path: Path) -> None:
    """The contrastive part, which only training needs, is left out of a saved model and not missed."""
    net = embedded_model()
    net.save_pretrained(tmp_path)
    whole = batch()
    whole.features = {}
    loaded = ecgmoe.ECGMoE.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert net(whole).contrast is not None
        assert loaded(whole).contrast is None
