"""Robustness as a whole, without Ray: what it refuses, what it writes, and what it says of several runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ecgmoe import robustness as module
from ecgmoe.config_tools import to_dict
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.inference import predict_perturbed
from ecgmoe.inference.predict_split import PredictShard
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import StorageError, Store
from ecgmoe.robustness import robustness
from ecgmoe.tasks import task_table
from finished_runs import CONFIG, finished_run
from prepared_examples import map_here, simulated_and_prepared

Logged = list[tuple[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robustness")
    data = simulated_and_prepared(folder)
    for number, name in enumerate(("first", "plain")):
        finished_run(folder / "runs", name, data, seed=number)
    return folder


@pytest.fixture(scope="module", autouse=True)
def logged() -> Iterator[Logged]:
    """No Ray, and what would go to MLflow."""
    kept: Logged = []

    class Tracker:
        def __init__(self, uri: str, run_id: str, run: Store) -> None:
            kept.append(("run", run.root))

        def log(self, metrics: dict[str, float | None], step: int) -> None:
            kept.append(("metrics", metrics))

        def text(self, text: str, name: str) -> None:
            kept.append(("file", name))

        def picture(self, png: bytes, name: str) -> None:
            kept.append(("file", name))

        def finish(self) -> None:
            kept.append(("end", None))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict_perturbed, "map_shards", map_here)
        patch.setattr(predict_perturbed, "actors", lambda shards: {})
        patch.setattr(module, "Tracker", Tracker)
        yield kept


def copied(folder: Path, name: str) -> Path:
    """A copy of the first run under another name, without its curves."""
    leave = shutil.ignore_patterns("robustness*")
    shutil.copytree(folder / "runs" / "first", folder / "runs" / name, ignore=leave)
    return folder / "runs" / name


def changed(run: Path, **changes: Any) -> None:
    """The configuration of a run, changed."""
    stored = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**stored, **changes}))


def data_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())["data"]


def test_the_whole(folder: Path, logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    logged.clear()
    summary = robustness(["first", "plain"], str(folder / "runs"), perturbations=["muscle_noise", "gain"])
    out = folder / "runs" / "first" / "robustness"
    assert json.loads((out / "robustness.json").read_text()) == json.loads(json.dumps(summary))
    said = capsys.readouterr().out
    assert "! SIMULATED DATA" in said
    assert str(out / "robustness.html") in said
    assert summary["notes"] == [
        "SIMULATED DATA: these figures say nothing about real patients.",
        "Random-initialised backbones: dlinear, timesnet.",
    ]
    names = {path.name for path in out.iterdir() if path.is_file()}
    pictures = {name for name in names if name.endswith(".png")}
    assert names - pictures == {"plan.json", "robustness.json", "robustness.csv", "robustness.html"}
    assert pictures == {
        "rr_mae.png",
        "age_mae.png",
        "sex_auroc.png",
        "potassium_auroc.png",
        "arrhythmia_f1_macro.png",
        "arrhythmia_accuracy.png",
    }
    runs = {(point["run"], point["perturbation"]) for point in summary["points"]}
    assert {("first", "gain"), ("plain", "gain"), ("detector's median", "gain"), ("constant", "clean")} <= runs
    # Once, whatever the number of runs.
    constants = [point["task"] for point in summary["points"] if point["run"] == "constant"]
    assert constants == ["rr", "age", "sex", "potassium", "arrhythmia", "arrhythmia"]
    logs = [value for kind, value in logged if kind == "metrics"]
    values = {
        point["strength"]: point["value"]
        for point in summary["points"]
        if (point["run"], point["perturbation"], point["task"]) == ("first", "gain", "rr")
    }
    assert logs[0]["robustness/gain_0.5/rr_mae"] == values[0.5]
    assert "robustness/clean/sex_auroc" in logs[0]
    files = {value for kind, value in logged if kind == "file"}
    assert files == {f"robustness/{name}" for name in names - {"plan.json"}}
    assert ("run", str(folder / "runs" / "first")) in logged
    # The same command leaves what is there, and says the same.
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert robustness(["first", "plain"], str(folder / "runs"), perturbations=["muscle_noise", "gain"]) == summary
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_clean_figures_are_those_of_the_report(folder: Path, tmp_path: Path) -> None:
    summary = robustness(["first", "plain"], str(folder / "runs"), perturbations=["lead_swap"], out=str(tmp_path))
    labels = PreparedData(str(folder / "data")).labels()
    test = labels.filter(pc.equal(labels["split"], "test"))
    constants = Constants.fit(labels.filter(pc.equal(labels["split"], "train")), task_table())
    for run in ("first", "plain"):
        predict = PredictShard(str(folder / "runs" / run / "model"), str(folder / "data"))
        shards = [test.filter(pc.equal(test["shard"], shard)) for shard in pc.unique(test["shard"])]
        predictions = pa.concat_tables([predict(shard) for shard in shards]).sort_by("study_id")
        expected = evaluate(predictions, constants, task_table())["tasks"]
        clean = [p for p in summary["points"] if (p["run"], p["perturbation"]) == (run, "clean")]
        assert len(clean) == 6
        for point in clean:
            values = expected[point["task"]]
            assert point["value"] == values[point["metric"]]
            assert [point["ci_low"], point["ci_high"]] == values[f"{point['metric']}_ci"]


def test_validation_lies_beside_test(folder: Path) -> None:
    summary = robustness(["plain"], str(folder / "runs"), split="validation", perturbations=["cut"])
    assert summary["title"].startswith("validation split of simulated")
    assert (folder / "runs" / "plain" / "robustness-validation" / "robustness.html").exists()


def test_a_run_that_is_not_there_or_not_finished_is_refused(folder: Path) -> None:
    storage = str(folder / "runs")
    with pytest.raises(ValueError, match=r"there is no run .*nobody: name one with --run"):
        robustness(["first", "nobody"], storage)
    unfinished = copied(folder, "unfinished")
    (unfinished / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"unfinished is not finished: call jobs/train\.py"):
        robustness(["first", "unfinished"], storage)
    with pytest.raises(ValueError, match=r"run name '\.\./first'"):
        robustness(["../first"], storage)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": []}, "name at least one run"),
        ({"names": ["first", "first"]}, "a run is named twice: first, first"),
        ({"perturbations": ()}, "name at least one perturbation"),
        ({"perturbations": ["hiccup"]}, "unknown perturbation 'hiccup'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_options_that_mean_nothing_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        robustness(**{"names": ["first"], "storage": str(folder / "runs"), **options})


def test_runs_trained_on_other_data_are_not_set_side_by_side(folder: Path) -> None:
    other = copied(folder, "other")
    changed(other, data={**data_of(other), "labels_sha256": "0" * 64, "folder": "/elsewhere"})
    with pytest.raises(
        ValueError, match=r"other was trained on /elsewhere and first on .*other records, labels or splits"
    ):
        robustness(["first", "other"], str(folder / "runs"))
    classes = copied(folder, "classes")
    changed(classes, config=to_dict(replace(CONFIG, taxonomy="report0_15")))
    with pytest.raises(ValueError, match="classes has the classes report0_15, first rhythm15"):
        robustness(["first", "classes"], str(folder / "runs"))


def test_data_that_changed_since_the_training_are_refused(folder: Path) -> None:
    moved = copied(folder, "moved")
    changed(moved, data={**data_of(moved), "labels_sha256": "0" * 64})
    with pytest.raises(ValueError, match="is not what it was when moved was trained on it"):
        robustness(["moved"], str(folder / "runs"))
    gone = copied(folder, "gone")
    changed(gone, data={**data_of(gone), "folder": str(folder / "nowhere")})
    with pytest.raises(StorageError, match="nowhere holds no prepared data"):
        robustness(["gone"], str(folder / "runs"))
    # The same data in another place are the same data.
    data = str(folder / "data")
    summary = robustness(["gone"], str(folder / "runs"), data, perturbations=["gain"])
    assert "trained on" not in summary["title"]


def test_patients_that_the_training_met_are_left_out(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    path, manifest_path = tmp_path / "data" / "labels.parquet", tmp_path / "data" / "manifest.json"
    labels, manifest = pq.read_table(path), json.loads(manifest_path.read_text())
    manifest["labels_sha256"] = "1" * 64

    def split_anew(new: dict[str, str]) -> None:
        split = [new.get(each, each) for each in labels["split"].to_pylist()]
        place = labels.schema.get_field_index("split")
        pq.write_table(labels.set_column(place, labels.schema.field("split"), [split]), path)
        manifest_path.write_text(json.dumps(manifest))

    def measured(split: str, out: str) -> dict[str, Any]:
        options: dict[str, Any] = {"split": split, "perturbations": ["gain"], "out": str(tmp_path / out)}
        return robustness(["first"], str(folder / "runs"), str(tmp_path / "data"), **options)

    split_anew({"train": "test", "test": "train"})
    with pytest.raises(ValueError, match="records is new to the model, training met their patients"):
        measured("test", "none")
    split_anew({"validation": "test"})
    summary = measured("test", "some")
    counts = {name: labels["split"].to_pylist().count(name) for name in ("test", "validation")}
    assert counts["validation"] > 0
    assert summary["records"] == counts["test"]
    assert summary["notes"][0] == (
        f"{counts['validation']} of {sum(counts.values())} records are left out: training met their patients."
    )
    # The patients of another dataset are other people, and the title says where the run comes from.
    manifest["dataset"] = "ludb"
    split_anew({})
    summary = measured("all", "every")
    assert summary["title"] == f"all of ludb, {len(labels)} records; trained on simulated"
    with pytest.raises(ValueError, match="split all of the data that the model was trained on includes its training"):
        robustness(["first"], str(folder / "runs"), split="all")


def test_a_note_of_one_run_names_it(folder: Path) -> None:
    chance = copied(folder, "chance")
    changed(chance, config=to_dict(replace(CONFIG, training=replace(CONFIG.training, epochs=0))))
    summary = robustness(["first", "chance"], str(folder / "runs"), perturbations=["gain"], out=str(folder / "chance"))
    assert summary["notes"][1] == (
        "Nothing was trained: the heads are as they were initialised, and these figures are chance. (chance)"
    )
