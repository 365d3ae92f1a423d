"""What a search says of its trials: order, winner, failures, pictures, and the same in a real MLflow store."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from mlflow import MlflowClient

from ecgmoe.config_tools import to_dict
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.tuning.identity import claim, parent_run
from ecgmoe.tuning.search_report import trial_rows, write_report
from ecgmoe.tuning.space import GROUPS, LAMBDA, space_of
from ecgmoe.tuning.tried import Tried, best_of
from tuning_examples import small

SPACE = space_of(("lambda", "gating"))


def tried(run: str, weight: float, scores: list[float], failure: str | None = None) -> Tried:
    values = {
        LAMBDA: weight,
        "model.width": 48,
        "model.gate_temperature": 1.5,
        "model.dropout": 0.2,
        "model.morphology_kernels": [3, 7],
        "model.rhythm_dilations": [[1, 2, 4]],
    }
    curve = {"score": scores, "age_mae": [10 - each for each in scores]} if scores else {}
    return Tried(
        run=run, values=values, score=max(scores, default=None), epochs=len(scores), failure=failure, curve=curve
    )


TRIALS = [
    tried("trial-a", 0.01, [0.1, 0.2, 0.15]),
    tried("trial-b", 0.1, [0.3, 0.4, 0.35]),
    tried("trial-c", 1.0, [0.05]),
    tried("trial-d", 2.0, [], "the disk is full"),
]


def test_the_best_validation_wins() -> None:
    assert best_of(TRIALS).run == "trial-b"
    assert best_of(list(reversed(TRIALS))).run == "trial-b"


def test_without_any_score_the_reasons_are_said() -> None:
    with pytest.raises(ValueError, match="none of 1 trials has a score: the disk is full"):
        best_of(TRIALS[3:])


def test_rows_go_from_the_best_to_the_failed() -> None:
    head, *rows = trial_rows(TRIALS, TRIALS[1], epochs=3)
    assert [row[0] for row in rows] == ["trial-b", "trial-a", "trial-c", "trial-d"]
    assert [row[1] for row in rows] == ["**0.4000**", "0.2000", "0.0500", ""]
    assert [row[-1] for row in rows] == ["", "", "stopped early", "failed: the disk is full"]
    assert head[3] == LAMBDA
    assert {len(row) for row in rows} == {len(head)}


def test_the_report_and_its_copy_in_mlflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "runs" / "s")
    parent = parent_run(store, str(tmp_path / "runs"), "s", {"about": 1}, small())
    rows = [("task", "metric", "mean", "sd", "constant"), ("age", "mae", "9.1", "0.2", "14.0")]
    found = write_report(
        store,
        "Search s on simulated",
        ["SIMULATED DATA: <b>"],
        TRIALS,
        TRIALS[1],
        space=SPACE,
        epochs=3,
        facts={"split": "validation"},
        winner_rows=rows,
        winner_text="Seeds 101",
        parent=parent,
    )
    report = tmp_path / "runs" / "s" / "report"
    assert json.loads((report / "search.json").read_text()) == json.loads(json.dumps(found))
    assert found["winner"]["values"][LAMBDA] == 0.1
    page = (report / "search.html").read_text()
    assert "SIMULATED DATA: &lt;b&gt;" in page
    assert "Lambda and each task" in page
    assert page.count("<svg") == 3
    ElementTree.parse(report / "learning_curves.svg")
    with (report / "trials.csv").open() as file:
        assert [row[1] for row in csv.reader(file)] == ["score", "0.4000", "0.2000", "0.0500", ""]
    said = capsys.readouterr().out
    assert "| trial-b | **0.4000** | 3 | 0.1 |" in said
    client = MlflowClient(parent.uri)
    assert client.get_run(parent.run_id).data.metrics["search/best_score"] == 0.4
    assert {each.path for each in client.list_artifacts(parent.run_id, "report")} >= {"report/search.html"}
    # The next start of the same search has the same run.
    assert parent_run(store, str(tmp_path / "runs"), "s", {"about": 1}, small()) == parent


def test_a_search_without_lambda_has_no_picture_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs" / "s")
    parent = parent_run(store, str(tmp_path / "runs"), "s", {}, small())
    values = {"model.lora_rank": 4, "model.lora_alpha": 8.0}
    one = Tried(run="trial-a", values=values, score=0.1, epochs=1, failure=None, curve={"score": [0.1]})
    write_report(
        store,
        "s",
        [],
        [one],
        one,
        space=GROUPS["lora"],
        epochs=1,
        facts={},
        winner_rows=[],
        winner_text="",
        parent=parent,
    )
    page = (tmp_path / "runs" / "s" / "report" / "search.html").read_text()
    assert "Lambda" not in page
    assert page.count("<svg") == 2


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    config = small()
    identity = {"config": to_dict(config), "search": {"trials": 12}}
    claim(store, "search.json", identity)
    wider = replace(config, training=replace(config.training, num_workers=2))
    claim(store, "search.json", {**identity, "config": to_dict(wider)})
    # One that was begun before an option came goes on.
    earlier = store.read_json("search.json")
    del earlier["config"]["model"]["backbones_per_record"]
    store.write_json("search.json", earlier)
    claim(store, "search.json", identity)
    with pytest.raises(ValueError, match=r"search.trials: 12 -> 13.*choose another --name"):
        claim(store, "search.json", {**identity, "search": {"trials": 13}})


def test_curves_of_a_run_in_the_order_of_their_steps(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    above = tracking.ParentRun(uri=uri, run_id=tracking.create_run(uri, "above", {}, {}, str(tmp_path / "artifacts")))
    run_id = tracking.create_run(uri, "one", {}, {}, str(tmp_path / "artifacts"), parent=above)
    tracker = tracking.Tracker(uri, run_id)
    for step, score in ((20, 0.2), (10, 0.1), (30, 0.05)):
        tracker.log({"validation/score": score, "train/loss": 1.0}, step)
    assert tracking.curves(uri, run_id, "validation/") == {"score": [0.1, 0.2, 0.05]}
    assert MlflowClient(uri).get_run(run_id).data.tags["mlflow.parentRunId"] == above.run_id


def test_a_model_is_registered_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    versions = []
    for name in ("one", "one", "two"):
        run = Store(tmp_path / name)
        if not run.exists("mlflow.json"):
            run_id = tracking.create_run(uri, name, {}, {}, str(tmp_path / "artifacts"))
            run.write_json("mlflow.json", {"run_id": run_id, "tracking_uri": uri})
            run.write_text("model/config.json", name)
        versions.append(tracking.register_model(run, uri, "ecg"))
    assert versions == [1, 1, 2]
    found = MlflowClient(uri).get_model_version("ecg", "2")
    assert Path(found.source.removeprefix("file://"), "config.json").read_text() == "two"
