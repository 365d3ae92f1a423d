"""The card of a model: figures as in metrics.json, a head that the hub reads, and nothing that a reader would miss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ecgmoe.config_tools import to_dict
from ecgmoe.evaluation.absent import absent
from ecgmoe.evaluation.calibration import fit
from ecgmoe.evaluation.calibration_check import calibration_metrics
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.model_card import Card, model_card
from ecgmoe.evaluation.report import number
from ecgmoe.evaluation.subgroups import subgroup_metrics
from ecgmoe.model.folder import CONFIG, read_config
from ecgmoe.tasks import task_table
from model_examples import TRAINED_ON, saved_model
from predictions_examples import made_up

TASKS = task_table()
CONSTANTS = Constants(
    median={"rr": 800.0, "age": 55.0},
    prior={"sex": (0.5, 0.5), "potassium": (0.75, 0.25), "arrhythmia": (1 / 15,) * 15},
)
WEIGHTS_OF = {"source": "lab/weights", "sha256": "fedcba9876543210", "licence": "MIT", "pretraining": "many ECGs"}


def card(folder: Path, **changed: Any) -> Card:
    saved_model(folder)
    model = read_config(folder / CONFIG) | {"trained_on": to_dict(TRAINED_ON)}
    model["backbones"][0]["provenance"] = WEIGHTS_OF
    table = made_up(TASKS, 60, 1)
    table = table.set_column(table.column_names.index("rr_source"), "rr_source", [["detected"] * len(table)])
    calibration = fit(made_up(TASKS, 100, 0), TASKS, "the validation split of made-up patients")
    metrics = {
        **evaluate(table, CONSTANTS, TASKS),
        "calibration": calibration_metrics(table, calibration, TASKS),
        "subgroups": subgroup_metrics(table, TASKS),
        "absent": absent(table, table, ()),
    }
    arguments: dict[str, Any] = {
        "name": "first",
        "dataset": "made-up",
        "model": model,
        "tasks": TASKS,
        "evaluated": "test split of made-up, 120 records",
        "notes": ["SIMULATED DATA: these figures say nothing about real patients."],
        "metrics": metrics,
        "data": None,
        "calibration": calibration,
        "versions": {"trained by": "ecgmoe 0.1.0, revision abc"},
    }
    return Card(**(arguments | changed))


def test_figures_have_their_intervals(tmp_path: Path) -> None:
    given = card(tmp_path)
    text = model_card(given)
    values = given.metrics["tasks"]["age"]
    low, high = values["mae_ci"]
    assert f"| mae (years) | lower | {number(values['mae'])} | {number(low)} .. {number(high)} |" in text
    of_women = next(each for each in given.metrics["subgroups"] if (each["group"], each["task"]) == ("female", "age"))
    assert f"| sex | female | age | mae (years) | {of_women['n']} | {number(of_women['value'])} |" in text
    coverage = given.metrics["calibration"]["age"]["conformal"]["coverage"]
    assert f"| age | 90% | {coverage:.1%} |" in text


def test_it_says_what_a_reader_must_not_overlook(tmp_path: Path) -> None:
    text = model_card(card(tmp_path))
    assert "Research use only: never a diagnosis." in text
    assert "**SIMULATED DATA: these figures say nothing about real patients.**" in text
    assert "**potassium was never trained" in text
    assert "**age was never trained" not in text
    assert "1,234 records of 1,001 patients" in text
    assert "| dlinear | lab/weights | MIT | fedcba987654 | many ECGs |" in text
    assert "| timesnet | random initialisation |" in text
    assert "cart" not in text
    assert str(tmp_path) not in text


def test_it_names_what_the_models_before_were_trained_on(tmp_path: Path) -> None:
    first = replace(TRAINED_ON, dataset="the first", records=5)
    second = replace(TRAINED_ON, dataset="the second", before=first)
    given = card(tmp_path)
    model = given.model | {"trained_on": to_dict(replace(TRAINED_ON, before=second))}
    text = model_card(card(tmp_path, model=model))
    assert "It began with the weights of a model that was trained on the second: 1,234 records" in text
    assert "That one began with the weights of a model that was trained on the first: 5 records" in text
    assert "began with" not in model_card(given)


def test_the_hub_reads_its_head(tmp_path: Path) -> None:
    given = card(tmp_path)
    data = ModelCard(model_card(given)).data
    assert data.library_name == "ecgmoe"
    assert "trained-on-made-up" in data.tags
    found = {(each.task_name, each.metric_type): each.metric_value for each in data.eval_results}
    assert found["age", "mae"] == given.metrics["tasks"]["age"]["mae"]
    # The detector's own RR is no label that a figure could claim anything about.
    assert given.metrics["tasks"]["rr"]["note"]
    assert not [task for task, _ in found if task == "rr"]


def test_a_folder_that_does_not_say_is_read_from_the_card_of_its_data(tmp_path: Path) -> None:
    given = card(tmp_path)
    counts = {task.label: 5 for task in TASKS} | {"patients": 6, "records": 7, "potassium_abnormal": 0}
    old = {key: value for key, value in given.model.items() if key != "trained_on"}
    text = model_card(card(tmp_path, model=old, data={"simulated": True, "splits": {"train": counts}}))
    assert "**potassium was never trained" in text
    assert "**The records are simulated" in text
    assert "| train | 6 | 7 | 5 | 5 | 5 | 0 | 5 |" in text
