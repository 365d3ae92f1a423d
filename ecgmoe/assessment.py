"""A finished run on a split: predictions, figures with intervals, and a report that says what they rest on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.evaluation import calibration as calibrating
from ecgmoe.evaluation.absent import absent
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.evaluation.calibration_check import calibration_metrics
from ecgmoe.evaluation.columns import PREDICTION
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.known import predicted_values
from ecgmoe.evaluation.linear import linear_beside
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.model_card import Card, model_card
from ecgmoe.evaluation.page import Page, render_both
from ecgmoe.evaluation.report import LINEAR, report_files, text_table
from ecgmoe.evaluation.routing import heat_maps, routing_summary
from ecgmoe.evaluation.seen import find_seen, seen_in_pretraining
from ecgmoe.evaluation.subgroups import class_metrics, confusion, subgroup_metrics
from ecgmoe.evaluation.worst import draw, worst_errors
from ecgmoe.inference.predict_split import predict_split
from ecgmoe.inference.predictor import read_calibration
from ecgmoe.model.files import CALIBRATION, CARD
from ecgmoe.pipeline.prepared import EVERY_SPLIT, PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.tasks import Task
from ecgmoe.training import tracking
from ecgmoe.training.identity import code_revision, environment

Values = npt.NDArray[Any]

RANDOM_WEIGHTS = "Random-initialised backbones"
"""How the note on backbones without published weights begins."""
STARTED = (
    "The training began with the weights of another model: whether that one was trained on any of these ECGs is not checked "
    "(the model's config.json says on which data it was)."
)


def evaluate_run(
    name: str, storage: str, data: str | None = None, *, split: str = "test", beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Predict a split with a finished run's model, and write predictions/<split>.parquet and a report.

    The baselines beside the model are fitted on the training split of the data that the run was trained on, and its
    probabilities are calibrated on their validation split, once, into its model folder, where the test split also leaves the
    model's card.

    Args:
        name: of the run.
        storage: folder or URL that holds runs.
        data: prepared folder; None takes the one that the run was trained on.
        split: "test" writes report/, another split report-<split>/, other data report-<split>-<name of their folder>/;
            "all" takes every record of other data. Records that training met are left out there (`find_seen`).
        beside: other runs of this storage, evaluated on the same records before.

    Returns:
        The content of metrics.json.

    Raises:
        ValueError: there is no such run, it is not finished, one of `beside` was not evaluated on these records, "all"
            includes the training records, or there is no other.
        StorageError: its folder cannot be written.
    """
    store = finished_run(storage, name)
    stored = store.read_json("config.json")
    config = from_dict(RunConfig, stored["config"])
    tasks = config.task_table()
    store.require_writable()
    trained_on = PreparedData(stored["data"]["folder"])
    prepared = PreparedData(data) if data else trained_on
    # The run's own report stays what it is.
    part = part_name(split, trained_on, prepared)
    report = "report" if part == "test" else f"report-{part}"

    seen = find_seen(trained_on, prepared, split)
    calibration = calibrate(store / "model", trained_on, tasks)
    started = time.perf_counter()
    predictions = predict_split(store.path("model"), prepared.store.root, split, seen.left_out)
    seconds = time.perf_counter() - started
    others = {other: predictions_beside(storage, other, part, predictions, tasks) for other in beside}
    labels = trained_on.labels()
    training_labels = labels.filter(pc.equal(labels["split"], "train"))
    constants = Constants.fit(training_labels, tasks)
    linear, about = linear_beside(trained_on, prepared, predictions["study_id"].to_numpy(), tasks)
    others = {LINEAR: linear, **others}
    metrics = {
        **evaluate(predictions, constants, tasks, beside=others),
        LINEAR: about,
        "calibration": calibration_metrics(predictions, calibration, tasks),
        "calibrated_on": calibration.fitted_on,
        "calibrated_on_these": part == "validation",
        "not_calibrated": dict(calibration.left_out),
        "subgroups": subgroup_metrics(predictions, tasks),
        **_of_classes(predictions, tasks),
        "absent": absent(predictions, training_labels, tasks),
        "seen": seen.describe(),
    }
    with store.writing(f"predictions/{part}.parquet") as file:
        pq.write_table(predictions, file, compression="zstd")
    title = f"{name}: {headline(split, trained_on, prepared, len(predictions))}"
    remarks = [
        *seen.notes,
        *notes(config, prepared.manifest, metrics, store.read_json("model/config.json")["backbones"]),
    ]
    routing = routing_summary(predictions, config.model.expert_names)
    # A picture is passed on without its report: it carries the report's remarks.
    pictures = heat_maps(routing, "\n".join([title, *remarks])) if routing else {}
    for file_name, picture in pictures.items():
        with store.writing(f"{report}/{file_name}") as file:
            file.write(picture)
    if routing:
        store.write_json(f"{report}/routing.json", routing)
    about_data = prepared.store.read_json("card.json") if prepared.store.exists("card.json") else None
    page = Page(
        title=title,
        notes=remarks,
        metrics=metrics,
        predictions=predictions,
        tasks=tasks,
        beside=others,
        routing=routing,
        worst=draw(prepared, worst_errors(predictions, tasks)),
        card=about_data,
        facts=facts(store, prepared, len(predictions), seconds),
    )
    whole_page, shared_page = render_both(page)
    files = {**report_files(metrics, title, remarks), "report.html": whole_page}
    # It goes last: it says that the report is whole, and logged.
    whole = files.pop("metrics.json")
    for file_name, text in files.items():
        store.write_text(f"{report}/{file_name}", text)
    if part == "test":
        card = Card(
            name=name,
            dataset=trained_on.manifest["dataset"],
            model=store.read_json("model/config.json"),
            tasks=tasks,
            evaluated=headline(split, trained_on, prepared, len(predictions)),
            notes=remarks,
            metrics=metrics,
            data=about_data,
            calibration=calibration,
            versions={"trained by": _code(stored["code"]), "evaluated by": _code(code_revision()), **environment()},
        )
        store.write_text(f"model/{CARD}", model_card(card))
    print("\n" + text_table(metrics, title, remarks), flush=True)
    print(f"\nreport {store.path(report)}/report.html\nmodel  {store.path('model')}", flush=True)
    # More people see a tracking server than the data: no study and no ECG goes there.
    track(store, metrics, part, report, {**files, "report.html": shared_page, "metrics.json": whole}, pictures)
    store.write_text(f"{report}/metrics.json", whole)
    return metrics


def part_name(split: str, trained_on: PreparedData, evaluated: PreparedData) -> str:
    """What tells the records of one evaluation of a run from those of another: the split, and the folder of other data."""
    root = evaluated.store.root
    return split if root == trained_on.store.root else f"{split}-{root.rstrip('/').rpartition('/')[2]}"


def headline(split: str, trained_on: PreparedData, evaluated: PreparedData, records: int) -> str:
    """Which records were evaluated, and where another one, the dataset of the training."""
    part = "all" if split == EVERY_SPLIT else f"{split} split"
    text = f"{part} of {evaluated.manifest['dataset']}, {records:,} records"
    elsewhere = evaluated.store.root != trained_on.store.root
    return f"{text}; trained on {trained_on.manifest['dataset']}" if elsewhere else text


def finished_run(storage: str, name: str) -> Store:
    """The folder of a run that has a model.

    Raises:
        ValueError: there is no such run, or it is not finished.
    """
    store = Store(storage) / name
    if not store.exists("config.json"):
        raise ValueError(f"there is no run {store.root}: name one with --run and --storage")
    if not store.exists("model/model.safetensors"):
        raise ValueError(
            f"the run {store.root} is not finished: call jobs/train.py with its name, it goes on where it stopped"
        )
    return store


def calibrate(model: Store, data: PreparedData, tasks: Sequence[Task]) -> Calibration:
    """The model folder's calibration; fitted on the validation split of its data where it has none yet.

    Validation chose the checkpoint, and so is a little easier for the model than new patients are: the report says what
    is covered on the split that it is about.
    """
    if model.exists(CALIBRATION):
        return read_calibration(model)
    source = f"the validation split of {data.manifest['dataset']}"
    if not pc.any(pc.equal(data.labels()["split"], "validation")).as_py():
        return Calibration(left_out={task.name: f"{source} is empty" for task in tasks}, fitted_on=source)
    calibration = calibrating.fit(predict_split(model.root, data.store.root, "validation"), tasks, source)
    model.write_json(CALIBRATION, to_dict(calibration))
    return calibration


def predictions_beside(
    storage: str, other: str, part: str, predictions: pa.Table, tasks: Sequence[Task]
) -> dict[str, Values]:
    """Predictions of another run for the same records, by task that it has, row by row those of `predictions`.

    Raises:
        ValueError: it was not evaluated on these records, or its rhythm classes are others.
    """
    store = finished_run(storage, other)
    file = f"predictions/{part}.parquet"
    if not store.exists(file):
        raise ValueError(
            f"the run {store.root} has no {file}: call jobs/evaluate.py for it first, with the same options"
        )
    with store.parquet(file) as opened:
        table = opened.read().sort_by("study_id")
    if not table["study_id"].equals(predictions["study_id"]):
        raise ValueError(f"{store.path(file)} is of other records: call jobs/evaluate.py for the run {other} again")
    classes = store.read_json("model/config.json")["classes"]
    found: dict[str, Values] = {}
    for task in tasks:
        if PREDICTION[task.name] not in table.column_names:
            continue
        if task.kind == "multiclass" and tuple(classes[task.name]) != task.classes:
            raise ValueError(
                f"the run {store.root} has other classes of the task {task.name}: leave it out of --beside"
            )
        found[task.name] = predicted_values(task, table)
    return found


def _of_classes(predictions: pa.Table, tasks: Sequence[Task]) -> dict[str, Any]:
    """The confusion matrix of every task with classes and labels, and the figures of each rhythm class."""
    matrices = {task.name: confusion(predictions, task) for task in tasks if task.kind != "regression"}
    rhythm = next((task for task in tasks if task.kind == "multiclass"), None)
    return {
        "confusion": {name: found for name, found in matrices.items() if found["classes"]},
        "classes": class_metrics(predictions, rhythm) if rhythm else {},
    }


def facts(store: Store, data: PreparedData, records: int, seconds: float) -> dict[str, dict[str, Any]]:
    """What a page says of speed and memory, provenance and configuration, by heading.

    Args:
        store: of the run.
        data: whose records were predicted.
        records: their number.
        seconds: that predicting them took.
    """
    stored, known = store.read_json("config.json"), store.read_json("mlflow.json")
    measured = tracking.medians(known["tracking_uri"], known["run_id"], ("train/records_per_s", "train/memory_gb"))
    resources = ray.cluster_resources()
    speed: dict[str, Any] = {
        "predicting these records": f"{records / seconds:,.0f} records/s ({seconds:.0f} s with the start of the workers)",
        "on": f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs",
    }
    if (rate := measured["train/records_per_s"]) is not None:
        speed["training (median)"] = f"{rate:,.0f} records/s"
    if (memory := measured["train/memory_gb"]) is not None:
        speed["memory of a training worker (rank 0)"] = f"{memory:.2f} GB"
    backbones = store.read_json("model/config.json")["backbones"]
    return {
        "Speed and memory": speed,
        "Provenance": {
            "run": store.root,
            "MLflow run": known["run_id"],
            "trained by": _code(stored["code"]),
            "evaluated by": _code(code_revision()),
            "trained on": f"{stored['data']['folder']} ({stored['data']['dataset']})",
            "labels_sha256 of these data": data.manifest["labels_sha256"],
            **{f"backbone {each['name']}": _origin(each) for each in backbones},
            **{f"version of {name}": value for name, value in environment().items()},
        },
        "Configuration": tracking.flat(stored["config"]),
    }


def _code(revision: Mapping[str, str]) -> str:
    return f"ecgmoe {revision['version']}, revision {revision['revision']}"


def _origin(backbone: Mapping[str, Any]) -> str:
    provenance = backbone["provenance"]
    return f"{provenance['source']} ({provenance['licence']})" if provenance else "random initialisation"


def notes(
    config: RunConfig, manifest: dict[str, Any], metrics: dict[str, Any], backbones: list[dict[str, Any]]
) -> list[str]:
    """What a reader of the report must not overlook; `backbones` as the model folder describes them."""
    lines = []
    if manifest["dataset"] == "simulated":
        lines.append("SIMULATED DATA: these figures say nothing about real patients.")
    if not config.training.epochs and config.start_from is None:
        lines.append("Nothing was trained: the heads are as they were initialised, and these figures are chance.")
    if config.start_from is not None:
        lines.append(STARTED)
    if random := random_backbones(config, backbones):
        lines.append(f"{RANDOM_WEIGHTS}: {', '.join(random)}.")
    if names := config.pretraining.backbones:
        lines.append(
            f"Pre-trained on the training split's ECGs without labels, by masked reconstruction: {', '.join(names)}."
        )
    for each in backbones:
        if provenance := each["provenance"]:
            line = f"{each['name']}: weights of {provenance['source']} ({provenance['licence']}); its pretraining saw "
            line += f"{provenance['pretraining']}."
            lines.append(line + seen_in_pretraining(manifest["dataset"], provenance["pretraining"]))
    if metrics["tasks"].get("rr", {}).get("note"):
        lines.append(f"rr: {metrics['tasks']['rr']['note']}; its figures are no claim.")
    return lines


def random_backbones(config: RunConfig, backbones: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Those without published weights, here or where the training began; `backbones` as the model folder describes them."""
    if config.start_from is None:
        return config.random_backbones
    return tuple(each["name"] for each in backbones if not each["provenance"])


def track(
    store: Store,
    metrics: dict[str, Any],
    part: str,
    report: str,
    files: dict[str, str],
    pictures: dict[str, bytes],
) -> None:
    """Log the metrics, the report and its pictures to the run's own MLflow run.

    Raises:
        StorageError: MLflow refuses.
    """
    known = store.read_json("mlflow.json")
    numbers = {
        f"{part}/{task}_{key}": value
        for task, values in metrics["tasks"].items()
        for key, value in values.items()
        if isinstance(value, int | float)
    }
    # With what training could not send.
    tracker = tracking.Tracker(known["tracking_uri"], known["run_id"], store)
    tracker.log(numbers, step=0)
    for name in ("report.html", "report.md", "metrics.csv", "metrics.json"):
        tracker.text(files[name], f"{report}/{name}")
    for name, picture in pictures.items():
        tracker.picture(picture, f"{report}/{name}")
    tracker.finish()
