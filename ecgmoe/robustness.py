"""Curves of finished runs against perturbed records, side by side: what jobs/robustness.py does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.assessment import RANDOM_WEIGHTS, finished_run, headline, notes, part_name, random_backbones
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, require
from ecgmoe.ecg.perturb import PERTURBATIONS, conditions
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.robustness import Point, csv_text, points_of, refused_shares, summary_of
from ecgmoe.evaluation.robustness_page import page, pictures, text_table
from ecgmoe.evaluation.seen import find_seen
from ecgmoe.inference.predict_perturbed import conditioned, predict_perturbed
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.training.identity import check_name
from ecgmoe.training.tracking import Tracker

IDENTITY = ("dataset", "records_key", "labels_sha256")
"""What config.json keeps of the data that a run was trained on, beside their folder."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Attributes:
        name: of the run.
        store: its folder.
        config: what it was trained with.
        data: folder and `IDENTITY` of what it was trained on.
    """

    name: str
    store: Store
    config: RunConfig
    data: dict[str, Any]

    @classmethod
    def of(cls, name: str, storage: str) -> Run:
        """Raises ValueError where there is no such run, or it is not finished."""
        check_name(name)
        store = finished_run(storage, name)
        stored = store.read_json("config.json")
        return cls(name=name, store=store, config=from_dict(RunConfig, stored["config"]), data=stored["data"])


def robustness(
    names: Sequence[str],
    storage: str,
    data: str | None = None,
    *,
    split: str = "test",
    seed: int = 0,
    perturbations: Sequence[str] | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Measure runs on perturbed records, and write robustness.json, robustness.csv, pictures and robustness.html.

    Args:
        names: of the runs; the first is the one that the others stand beside, and its MLflow run gets its figures.
        storage: folder or URL that holds runs.
        data: prepared folder; None takes the one that the runs were trained on.
        split: "validation" or "test"; "all" takes every record of other data. Records that training met are left out there.
        seed: of the perturbations; the same one gives the same records.
        perturbations: names of `PERTURBATIONS`; None takes all of them.
        out: folder; None takes robustness/ in the first run's folder, for another split robustness-<split>/, for other data
            robustness-<split>-<name of their folder>/.

    Returns:
        The content of robustness.json.

    Raises:
        ValueError: a run or a perturbation is not there, a run is not finished, runs cannot be compared, or every record was
            met in training.
        StorageError: the folder cannot be written.
    """
    require(bool(names), "name at least one run with --runs")
    require(len(set(names)) == len(names), f"a run is named twice: {', '.join(names)}")
    require(perturbations != (), "name at least one perturbation, or leave --perturbations out for all of them")
    require(seed >= 0, f"seed must be at least 0, got {seed}")
    chosen = conditions(tuple(PERTURBATIONS) if perturbations is None else perturbations)
    runs = [Run.of(name, storage) for name in names]
    first = runs[0]
    trained_on, prepared = comparable_data(runs, data)
    seen = find_seen(trained_on, prepared, split)
    name = part_name(split, trained_on, prepared)
    part = "robustness" if name == "test" else f"robustness-{name}"
    folder = Store(out or first.store.path(part))
    folder.require_writable()
    models = {run.name: run.store.path("model") for run in runs}
    predict_perturbed(models, prepared.store.root, split, chosen, seed=seed, out=folder, leave_out=seen.left_out)
    labels = trained_on.labels()
    training = labels.filter(pc.equal(labels["split"], "train"))
    points: list[Point] = []
    for run in runs:
        tasks = run.config.task_table()
        known = {point.task for point in points}
        measured = points_of(run.name, conditioned(folder, run.name, chosen), Constants.fit(training, tasks), tasks)
        # The constant and the detector of a task are the same ones beside every run.
        points += [point for point in measured if point.run == run.name or point.task not in known]
    _, clean = next(conditioned(folder, first.name, chosen))
    summary = summary_of(
        points,
        refused_shares(conditioned(folder, first.name, chosen)),
        headline(split, trained_on, prepared, len(clean)),
        [*seen.notes, *remarks(runs, prepared, clean, training)],
        split=split,
        seed=seed,
        records=len(clean),
        patients=len(np.unique(clean["patient_id"].to_numpy())),
        runs={run.name: run.store.sha256("model/model.safetensors") for run in runs},
    )
    write(folder, summary, points, first, part)
    return summary


def comparable_data(runs: Sequence[Run], data: str | None) -> tuple[PreparedData, PreparedData]:
    """The data that all runs were trained on, and those to measure them on.

    Raises:
        ValueError: runs were trained on other data or classes than the first, or their data changed since.
    """
    first = runs[0]
    for run in runs[1:]:
        if any(run.data[key] != first.data[key] for key in IDENTITY):
            raise ValueError(
                f"{run.name} was trained on {run.data['folder']} and {first.name} on {first.data['folder']}, which have "
                "other records, labels or splits: the split of one may hold training records of the other; train them on "
                "the same data"
            )
        if run.config.taxonomy != first.config.taxonomy:
            raise ValueError(f"{run.name} has the classes {run.config.taxonomy}, {first.name} {first.config.taxonomy}")
    prepared = PreparedData(data or first.data["folder"])
    if all(prepared.manifest[key] == first.data[key] for key in IDENTITY):
        return prepared, prepared
    if not data:
        raise ValueError(
            f"{prepared.store.root} is not what it was when {first.name} was trained on it (records, labels or splits have "
            "changed): its splits may hold training records; train again, or give other --data"
        )
    return PreparedData(first.data["folder"]), prepared


def remarks(runs: Sequence[Run], data: PreparedData, clean: pa.Table, training: pa.Table) -> list[str]:
    """What a reader must not overlook of any run; those that not all runs share name theirs."""
    tasks = runs[0].config.task_table()
    metrics = evaluate(clean, Constants.fit(training, tasks), tasks, intervals=False)
    of: dict[str, list[str]] = {}
    for run in runs:
        backbones = run.store.read_json("model/config.json")["backbones"]
        for line in notes(run.config, data.manifest, metrics, backbones):
            of.setdefault(line, []).append(run.name)
    lines = [
        line if len(names) == len(runs) else f"{line} ({', '.join(names)})"
        for line, names in of.items()
        if not line.startswith(RANDOM_WEIGHTS)
    ]
    random = dict.fromkeys(
        name
        for run in runs
        for name in random_backbones(run.config, run.store.read_json("model/config.json")["backbones"])
    )
    return [*lines, *([f"{RANDOM_WEIGHTS}: {', '.join(random)}."] if random else [])]


def write(folder: Store, summary: dict[str, Any], points: Sequence[Point], first: Run, part: str) -> None:
    """Write all files and log them to the first run's MLflow run, with the figures of that run.

    Raises:
        StorageError: the folder cannot be written, or MLflow refuses.
    """
    drawn = pictures(summary)
    texts = {
        "robustness.csv": csv_text(points),
        "robustness.html": page(summary, drawn),
        # It goes last: it says that the others are whole.
        "robustness.json": json.dumps(summary, indent=2, allow_nan=False) + "\n",
    }
    for name, picture in drawn.items():
        with folder.writing(name) as file:
            file.write(picture)
    for name, text in texts.items():
        folder.write_text(name, text)
    print(f"\n{text_table(summary)}\n\npage   {folder.path('robustness.html')}", flush=True)
    numbers = {
        f"{part}/{point.perturbation}{'' if point.strength is None else f'_{point.strength:g}'}/{point.task}_{point.metric}": (
            point.value
        )
        for point in points
        if point.run == first.name
    }
    known = first.store.read_json("mlflow.json")
    tracker = Tracker(known["tracking_uri"], known["run_id"], first.store)
    tracker.log(numbers, step=0)
    for name, text in texts.items():
        tracker.text(text, f"{part}/{name}")
    for name, picture in drawn.items():
        tracker.picture(picture, f"{part}/{name}")
    tracker.finish()
