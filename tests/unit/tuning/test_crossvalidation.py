"""Cross-validation on files alone: which cells are computed, what is pooled, and what the comparison says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cell_fakes import NOISE, Fakes
from ecgmoe.config import RunConfig
from ecgmoe.evaluation.report import LINEAR
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.tuning import cells
from ecgmoe.tuning.crossvalidation import cross_validate
from finished_runs import CONFIG
from model_examples import saved_model


def compare(data: Path, storage: Path, **changes: Any) -> dict[str, Any]:
    variants: Sequence[str] = ("ecg_moe", "residual_network")
    options = {"folds": 3, "seeds": (0, 7)} | changes
    return cross_validate(CONFIG, variants, data=str(data), name="both", storage=str(storage), **options)


def test_every_record_is_predicted_once_by_each_variant_and_seed(
    data: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = compare(data, tmp_path)
    assert len(fakes.trained) == 2 * 3 * 2
    assert ("residual_network-fold2-seed7", 7, "2") in fakes.trained
    labels = PreparedData(str(data)).labels()
    outside = labels.filter(np.array(labels["split"].to_pylist()) != "test")
    for name in ("ecg_moe", "residual_network"):
        table = pq.read_table(tmp_path / "both" / "predictions" / f"{name}.parquet")
        for seed in (0, 7):
            studies = table.filter(np.array(table["seed"]) == seed)["study_id"].to_pylist()
            assert sorted(studies) == sorted(outside["study_id"].to_pylist())
    age = metrics["tasks"]["age"]
    known = len(outside) - outside["age_years"].null_count
    assert age["n"] == 2 * known
    assert age["mae"] == pytest.approx(NOISE["ecg_moe"] * 0.8, rel=0.2)
    assert age["beside"]["residual_network"]["mae"] == pytest.approx(NOISE["residual_network"] * 0.8, rel=0.2)
    assert age["beside"][LINEAR]["mae"] < age["constant"]["mae"] * 1.2
    said = capsys.readouterr().out
    assert "| age | mae (years) | lower | residual_network | -" in said
    assert "| better |" in said
    assert "no difference shown" in said
    assert "SIMULATED DATA" in said
    assert "Random-initialised backbones: dlinear, timesnet." in said
    report = tmp_path / "both" / "report"
    assert json.loads((report / "metrics.json").read_text())["tasks"]["age"]["mae"] == age["mae"]
    assert "residual_network" in (report / "differences.md").read_text()


def test_a_model_that_a_variant_cannot_start_from_is_refused_before_the_first_training(
    data: Path, tmp_path: Path, fakes: Fakes
) -> None:
    saved_model(tmp_path / "model")
    config = replace(CONFIG, start_from=str(tmp_path / "model"))
    with pytest.raises(ValueError, match="and this run residual_network: start with"):
        cross_validate(config, ["residual_network"], data=str(data), name="one", storage=str(tmp_path), folds=3)
    assert not fakes.trained


def test_trials_get_the_whole_path_of_a_model_to_start_from(
    data: Path, tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str | None] = []
    train = fakes.train

    def noting(config: RunConfig, **options: Any) -> str:
        begun.append(config.start_from)
        return train(config, **options)

    monkeypatch.setattr(cells, "train", noting)
    monkeypatch.setattr(cells, "check_start", lambda _: None)
    monkeypatch.chdir(tmp_path)
    config = replace(CONFIG, start_from="model")
    cross_validate(config, ["ecg_moe"], data=str(data), name="one", storage=str(tmp_path), folds=3)
    assert begun == [f"{tmp_path}/model"] * 3


def test_the_cells_of_a_variant_come_one_after_the_other(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    """So that those of the next one find their pre-trainings done."""
    compare(data, tmp_path)
    names = [f"fold{fold}-seed{seed}" for seed in (0, 7) for fold in range(3)]
    assert [name for name, *_ in fakes.trained] == [
        f"{variant}-{name}" for variant in ("ecg_moe", "residual_network") for name in names
    ]


def test_what_is_finished_is_not_predicted_again(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    fakes.fail_at = 7
    with pytest.raises(KeyboardInterrupt):
        compare(data, tmp_path)
    before = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("test.parquet")}
    assert len(before) == 7
    fakes.fail_at = None
    whole = compare(data, tmp_path)
    assert {each: each.stat().st_mtime_ns for each in before} == before
    assert whole == compare(data, tmp_path)


def test_two_seeds_are_no_more_patients(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    """Twice the rows of the same patients: the interval has to stay about as wide."""

    def width(metrics: dict[str, Any]) -> float:
        low, high = metrics["tasks"]["age"]["mae_ci"]
        return high - low

    one, two = compare(data, tmp_path / "one", seeds=(0,)), compare(data, tmp_path / "two", seeds=(0, 1))
    assert width(two) > 0.8 * width(one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "name each seed once"),
        ({"seeds": (1, 1)}, "name each seed once"),
        ({"folds": 1}, "folds must be at least 2"),
    ],
)
def test_wrong_options(data: Path, tmp_path: Path, fakes: Fakes, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(data, tmp_path, **changes)
    assert not fakes.trained


def test_an_unknown_variant_is_refused_before_anything_trains(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    with pytest.raises(ValueError, match="unknown variant 'resnet'"):
        cross_validate(CONFIG, ("ecg_moe", "resnet"), data=str(data), name="x", storage=str(tmp_path))
    assert not fakes.trained


def test_a_training_that_fails_is_named_with_its_reason(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    fakes.failing = {"ecg_moe-fold1-seed0", "residual_network-fold1-seed0"}
    with pytest.raises(ValueError, match=r"2 of 6 trainings failed.*ecg_moe-fold1-seed0: lead V9 is unknown"):
        compare(data, tmp_path, seeds=(0,))
