"""How far each task's main metric goes when records get worse: per run and condition, with patient-level intervals.

A run is compared with itself on the clean records, by the same resamples of patients, so that what is hard in either case
cancels. Labels are those of the clean record; a task whose label a perturbation makes untrue is not measured under it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.ecg.perturb import CLEAN, PERTURBATIONS, Condition
from ecgmoe.evaluation.bootstrap import WEIGHTED, Floats, interval, resampled
from ecgmoe.evaluation.columns import REFUSED
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.known import known_arrays
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.report import HIGHER
from ecgmoe.tasks import Kind, Task

MAIN: dict[Kind, tuple[str, ...]] = {
    "regression": ("mae",),
    "binary": ("auroc",),
    "multiclass": ("f1_macro", "accuracy"),
}
CONSTANT, DETECTOR = "constant", "detector's median"
"""In place of a run's name: the constant that is best on the training split, and, for RR, the detector alone."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One metric of a run under one condition.

    Attributes:
        run: its name, `CONSTANT` or `DETECTOR`.
        perturbation: "clean" for none.
        strength: as `Perturbation.axis` has it; None for the clean record.
        task: name.
        metric: name.
        unit: of the value; empty where it has none.
        better: "higher" or "lower".
        n: records with a label; for `DETECTOR` those in which it finds an RR interval too.
        value: None where the metric is not defined.
        ci_low, ci_high: 95 % interval of the value, over patients.
        difference: the value minus that of the same run on the clean records.
        difference_low, difference_high: its 95 % interval, by the same resamples.
    """

    run: str
    perturbation: str
    strength: float | None
    task: str
    metric: str
    unit: str
    better: str
    n: int
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


def points_of(
    run: str,
    tables: Iterable[tuple[Condition, pa.Table]],
    constants: Constants,
    tasks: Sequence[Task],
    *,
    seed: int = 0,
) -> Iterator[Point]:
    """Main metrics of a run under every condition.

    Args:
        run: its name.
        tables: predictions by condition, the clean ones first, each ordered by study_id.
        constants: fitted on the training split.
        tasks: those of the run.
        seed: of the bootstrap.

    Raises:
        ValueError: a prediction is missing or not finite.
    """
    clean: dict[str, tuple[Mapping[str, Any], dict[str, Floats]]] = {}
    for condition, table in tables:
        untrue = () if condition == CLEAN else PERTURBATIONS[condition.perturbation].untrue
        true = [task for task in tasks if task.name not in untrue]
        measured = evaluate(table, constants, true, intervals=False)["tasks"]
        for task in (task for task in true if task.name in measured):
            values = measured[task.name]
            _, truth, predicted, patient = known_arrays(task, table)
            measure = partial(WEIGHTED[task.kind], truth, predicted)
            draws = resampled(measure, patient, seed=seed)
            if condition == CLEAN:
                clean[task.name] = values, draws
            before, draws_before = clean[task.name]
            for metric in MAIN[task.kind]:
                about = _about(condition, task, metric)
                bounds: dict[str, Any] = _bounds("ci", draws[metric])
                if condition != CLEAN and None not in (values[metric], before[metric]):
                    bounds["difference"] = values[metric] - before[metric]
                    bounds |= _bounds("difference", draws[metric] - draws_before[metric])
                yield Point(run=run, n=values["n"], value=values[metric], **about, **bounds)
                if condition == CLEAN:
                    yield Point(run=CONSTANT, n=values["n"], value=values["constant"][metric], **about)
                if found := values.get("median_detected_rr"):
                    yield Point(run=DETECTOR, n=found["n"], value=found[metric], **about)


def _about(condition: Condition, task: Task, metric: str) -> dict[str, Any]:
    better = "higher" if metric in HIGHER else "lower"
    return {**condition._asdict(), "task": task.name, "metric": metric, "unit": task.unit, "better": better}


def _bounds(name: str, draws: Floats) -> dict[str, float | None]:
    low, high = interval(draws) or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def refused_shares(tables: Iterable[tuple[Condition, pa.Table]]) -> list[dict[str, Any]]:
    """By condition, how many of its records the default quality policy would have excluded."""
    return [
        {**condition._asdict(), "records": len(table), "refused": pc.sum(table[REFUSED]).as_py()}
        for condition, table in tables
    ]


def summary_of(
    points: Sequence[Point], refused: Sequence[Mapping[str, Any]], title: str, notes: Sequence[str], **about: Any
) -> dict[str, Any]:
    """The content of robustness.json.

    Args:
        points: of all runs, in their order.
        refused: as `refused_shares` gives it.
        title: what was measured.
        notes: what a reader must not overlook.
        about: what decided the figures.
    """
    chosen = dict.fromkeys(each["perturbation"] for each in refused if each["perturbation"] != CLEAN.perturbation)
    return {
        "title": title,
        "notes": list(notes),
        **about,
        "perturbations": {
            name: {key: getattr(PERTURBATIONS[name], key) for key in ("title", "axis", "at", "steps")}
            for name in chosen
        },
        "refused": list(refused),
        "points": [asdict(point) for point in points],
    }


def csv_text(points: Sequence[Point]) -> str:
    """All points in full precision, a column per attribute; what is not defined is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return buffer.getvalue()
