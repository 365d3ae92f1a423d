"""Which models a run can begin with, and what it takes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.files import CONFIG, WEIGHTS
from ecgmoe.model.folder import ModelFolderError, load_model, model_config, save_model
from ecgmoe.pipeline.store import Store
from ecgmoe.training.build import build_backbones, build_model
from ecgmoe.training.config import PretrainingConfig, TrainingConfig
from ecgmoe.training.start import FOLDER, check_start, keep_start, load_start, with_whole_path
from ecgmoe.workflow import run
from hub import hub
from model_examples import TRAINED_ON, batch, statistics
from prepared_examples import simulated_and_prepared

MOMENT = BackboneConfig(name="moment", mode="frozen", allow_random=True)
CONFIG_OF_RUN = RunConfig(
    backbones=(BackboneConfig(name="dlinear"), MOMENT),
    model=ModelConfig(width=16),
    loss=LossConfig(task_weighting="uncertainty"),
)


def build_run(config: RunConfig, seed: int) -> tuple[ECGMoE, dict[str, Any]]:
    backbones = build_backbones(config)
    training = replace(config.training, seed=seed)
    return build_model(replace(config, training=training), statistics(), backbones), backbones


def save(folder: Path, config: RunConfig = CONFIG_OF_RUN) -> Path:
    """A model folder as a run leaves it, with weights of another seed than a run begins with."""
    model, backbones = build_run(config, seed=7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    about = model_config(
        config.model,
        tasks=config.tasks,
        taxonomy=config.taxonomy,
        backbones=backbones,
        statistics=statistics(),
        trained_on=TRAINED_ON,
    )
    cached = {each.name: backbones[each.name] for each in config.cached}
    save_model(folder, dict(model.state_dict()), about, cached)
    return folder


def of_moment(**changed: Any) -> RunConfig:
    return replace(CONFIG_OF_RUN, backbones=(CONFIG_OF_RUN.backbones[0], replace(MOMENT, **changed)))


def predictions(model: ECGMoE, records: ECGBatch) -> dict[str, Tensor]:
    with torch.inference_mode():
        return model.eval()(records).predictions


def test_a_run_predicts_what_the_model_predicts(tmp_path: Path) -> None:
    config = replace(CONFIG_OF_RUN, start_from=str(save(tmp_path / "model")))
    check_start(config)
    start = keep_start(config, Store(tmp_path / "run"))
    assert start is not None
    assert (start.statistics, start.trained_on) == (statistics(), TRAINED_ON)
    assert start.provenance == {"dlinear": None, "moment": None}
    trained, _ = load_model(tmp_path / "model")
    begun, _ = build_run(config, seed=0)
    records = batch()
    expected, before = predictions(trained, records), predictions(begun, records)
    load_start(begun, Store(tmp_path / "run"))
    after = predictions(begun, records)
    for task, values in expected.items():
        assert torch.equal(after[task], values)
        assert not torch.equal(before[task], values)


def test_the_model_may_be_on_a_hub(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    program = (
        "import sys\nfrom ecgmoe.pipeline.store import Store\nfrom ecgmoe.training.start import keep_start\n"
        "from dataclasses import replace\nfrom test_start import CONFIG_OF_RUN\n"
        "keep_start(replace(CONFIG_OF_RUN, start_from='hf://lab/model'), Store(sys.argv[1]))"
    )
    with hub() as there:
        there.files["lab/model"] = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "run")],
            env={**os.environ, **there.environment(HF_HOME=str(tmp_path / "cache"), PYTHONPATH=paths)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "run" / FOLDER / name).read_bytes() == (folder / name).read_bytes()


def test_targets_that_it_was_never_trained_on_have_the_scale_of_the_run(tmp_path: Path) -> None:
    config = replace(CONFIG_OF_RUN, start_from=str(save(tmp_path / "model")))
    start = keep_start(config, Store(tmp_path / "run"))
    assert start is not None
    own = replace(
        statistics(),
        characteristics_mean=(5.0,) * len(statistics().characteristics_mean),
        target_mean={"rr": 700.0, "age": 30.0},
        target_std={"rr": 100.0, "age": 9.0},
        class_weights={"arrhythmia": (1.0,) * 15},
    )
    # Of its data the age alone had no label.
    never = replace(TRAINED_ON, labels={**TRAINED_ON.labels, "age": 0})
    found = replace(start, trained_on=never).scaling(own)
    assert (found.target_mean, found.target_std) == ({"rr": 800.0, "age": 30.0}, {"rr": 150.0, "age": 9.0})
    assert found.characteristics_mean == statistics().characteristics_mean
    assert found.class_weights == own.class_weights
    assert start.scaling(own).target_mean == statistics().target_mean


def test_a_run_says_so_before_it_embeds(tmp_path: Path) -> None:
    data = simulated_and_prepared(tmp_path, patients=30, studies=40)
    config = replace(CONFIG_OF_RUN, start_from=str(tmp_path / "nowhere"))
    with pytest.raises(ModelFolderError, match="cannot start from"):
        run(config, name="run", storage=str(tmp_path / "runs"), data=str(data))
    assert not (data / "features").exists()
    assert not (tmp_path / "runs" / "run").exists()


def test_its_path_is_whole_whatever_folder_a_process_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_whole_path(replace(CONFIG_OF_RUN, start_from="runs/model")).start_from == f"{tmp_path}/runs/model"
    assert with_whole_path(replace(CONFIG_OF_RUN, start_from="hf://lab/model")).start_from == "hf://lab/model"
    assert with_whole_path(CONFIG_OF_RUN) == CONFIG_OF_RUN


def test_a_backbone_that_cannot_be_pretrained_is_named(tmp_path: Path) -> None:
    config = replace(CONFIG_OF_RUN, backbones=(BackboneConfig(name="timesnet", mode="full"),))
    with pytest.raises(ValueError, match=r"timesnet \(TimesNet\) has no features along time"):
        check_start(replace(config, pretraining=PretrainingConfig(backbones=("timesnet",), epochs=1)))


def test_what_only_the_losses_need_begins_anew(tmp_path: Path) -> None:
    config = replace(CONFIG_OF_RUN, start_from=str(save(tmp_path / "model")))
    keep_start(config, Store(tmp_path / "run"))
    begun, _ = build_run(config, seed=0)
    of_loss = begun.contrast_m.weight.clone()
    load_start(begun, Store(tmp_path / "run"))
    assert begun.log_variance is not None
    assert not begun.log_variance.any()
    assert torch.equal(begun.contrast_m.weight, of_loss)


def test_adapters_come_new_beside_the_weights_of_the_model(tmp_path: Path) -> None:
    config = replace(of_moment(mode="lora"), start_from=str(save(tmp_path / "model")))
    keep_start(config, Store(tmp_path / "run"))
    begun, _ = build_run(config, seed=0)
    load_start(begun, Store(tmp_path / "run"))
    trained, _ = load_model(tmp_path / "model")
    for task, values in predictions(trained, batch()).items():
        # B is zero: the adapters change nothing yet.
        torch.testing.assert_close(predictions(begun, batch())[task], values, rtol=0, atol=1e-6)
    assert any("lora_A" in name for name, each in begun.named_parameters() if each.requires_grad)


def test_adapters_of_the_model_go_on(tmp_path: Path) -> None:
    config = of_moment(mode="lora")
    config = replace(config, start_from=str(save(tmp_path / "model", config)))
    keep_start(config, Store(tmp_path / "run"))
    begun, _ = build_run(config, seed=0)
    load_start(begun, Store(tmp_path / "run"))
    adapters = {name: each for name, each in begun.state_dict().items() if "lora_B" in name}
    assert adapters
    assert all((each == 0.01).all() for each in adapters.values())


def test_a_cached_backbone_may_become_a_live_one(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", of_moment(mode="cached"))
    config = replace(of_moment(mode="full"), start_from=str(folder))
    keep_start(config, Store(tmp_path / "run"))
    begun, _ = build_run(config, seed=0)
    load_start(begun, Store(tmp_path / "run"))
    trained, _ = load_model(folder)
    for task, values in predictions(trained, batch()).items():
        assert torch.equal(predictions(begun, batch())[task], values)


def test_cached_features_have_to_come_from_the_same_weights(tmp_path: Path) -> None:
    cached = of_moment(mode="cached")
    folder = str(save(tmp_path / "model", cached))
    check_start(replace(cached, start_from=folder))
    with pytest.raises(ValueError, match=r"moment of .* has other weights .* another mode than cached"):
        check_start(replace(of_moment(mode="cached", seed=3), start_from=folder))


def test_a_run_goes_on_without_the_folder(tmp_path: Path) -> None:
    config, run = replace(CONFIG_OF_RUN, start_from=str(save(tmp_path / "model"))), Store(tmp_path / "run")
    keep_start(config, run)
    run.write_json("config.json", {})
    shutil.rmtree(tmp_path / "model")
    assert keep_start(config, run) is not None
    # One that has not begun needs it.
    with pytest.raises(ModelFolderError, match=r"it has no config\.json and no model\.safetensors"):
        keep_start(config, Store(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            replace(CONFIG_OF_RUN, model=ModelConfig(width=32)),
            r"is \(16, .*\) there and \(32, .*\) here; .* differ: model.width: 16 -> 32: take those",
        ),
        (replace(CONFIG_OF_RUN, tasks=("rr", "age")), r"--tasks rr age sex potassium arrhythmia --taxonomy rhythm15"),
        (replace(CONFIG_OF_RUN, taxonomy="report0_15"), r"classes rhythm15.*--taxonomy rhythm15"),
        (replace(CONFIG_OF_RUN, backbones=(MOMENT,)), r"has the backbones dlinear, moment and this run moment"),
        (of_moment(tokens=3), r"backbone moment .* another one than this run's \(architecture\.tokens: .* -> 3\)"),
    ],
)
def test_other_parts_are_refused(tmp_path: Path, changed: RunConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_start(replace(changed, start_from=str(save(tmp_path / "model"))))


def test_adapters_of_another_rank_are_refused(tmp_path: Path) -> None:
    folder = str(save(tmp_path / "model", of_moment(mode="lora")))
    with pytest.raises(ValueError, match=r"lora\.rank: 8 -> 4"):
        check_start(replace(of_moment(mode="lora", lora_rank=4), start_from=folder))
    # Nor can they be left out.
    with pytest.raises(ValueError, match=r"backbone moment .* \(lora: .* -> null\)"):
        check_start(replace(CONFIG_OF_RUN, start_from=folder))


def cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:200])


def unknown_format(folder: Path) -> None:
    (folder / CONFIG).write_text('{"format_version": 1}')


def half_a_configuration(folder: Path) -> None:
    (folder / CONFIG).write_text('{"format_version": 3, "tasks": ["age"]}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, r"model\.safetensors is torn"),
        (unknown_format, r"format version 1"),
        (half_a_configuration, r"it has no taxonomy, model, backbones, statistics"),
    ],
)
def test_damaged_folders_are_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = save(tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelFolderError, match=message):
        check_start(replace(CONFIG_OF_RUN, start_from=str(folder)))


def test_without_an_option_there_is_no_start(tmp_path: Path) -> None:
    check_start(CONFIG_OF_RUN)
    assert keep_start(CONFIG_OF_RUN, Store(tmp_path / "run")) is None
    assert not (tmp_path / "run" / FOLDER).exists()


def test_how_it_trains_may_be_another_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = TrainingConfig(num_workers=1, epochs=1, learning_rate=1e-5, zero_stage=3)
    config = replace(CONFIG_OF_RUN, training=other, model=ModelConfig(width=16, dropout=0.5, max_beats=20))
    folder = str(save(tmp_path / "model"))
    keep_start(replace(config, start_from=folder), Store(tmp_path / "run"))
    # Of the last one the weights know nothing.
    before = CONFIG_OF_RUN.model
    said = f"options that differ: model.dropout: {before.dropout} -> 0.5; model.max_beats: {before.max_beats} -> 20"
    assert said in capsys.readouterr().out
