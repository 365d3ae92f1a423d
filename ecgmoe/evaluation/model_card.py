"""The model card that travels with a model folder, written from its run: nothing in it was typed by hand.

Sections as Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019, arXiv 1810.03993) want them; the head is what
huggingface_hub reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecgmoe.ecg.record import LEADS
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.evaluation.report import (
    METRICS,
    RESEARCH_ONLY,
    SHOWN,
    footnotes,
    header,
    markdown_rows,
    measured,
    number,
    rows,
    with_unit,
)
from ecgmoe.evaluation.subgroups import MIN_PATIENTS
from ecgmoe.html_page import environment
from ecgmoe.tasks import Task

OF_PEOPLE = ("sex", "age", "rhythm")
"""Groups of the card; the machines' numbers are the hospital's own."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card is written from.

    Attributes:
        name: of the run.
        dataset: that it was trained on.
        model: config.json of the model folder.
        tasks: those of the model.
        evaluated: which records, in words.
        notes: what a reader must not overlook.
        metrics: the content of metrics.json.
        data: card.json of the dataset; None where it has none.
        calibration: of the model folder.
        versions: of Python and the packages that trained it, and the revision of this project's code.
    """

    name: str
    dataset: str
    model: Mapping[str, Any]
    tasks: Sequence[Task]
    evaluated: str
    notes: Sequence[str]
    metrics: Mapping[str, Any]
    data: Mapping[str, Any] | None
    calibration: Calibration
    versions: Mapping[str, str]


def model_card(card: Card) -> str:
    """README.md of a model folder, in Markdown with a head in YAML. It names no path of a machine."""
    template = environment("ecgmoe.evaluation", html=False).get_template("model_card.md")
    # Folders from before it was noted do not say; then the dataset's card does, if there is one.
    trained_on = card.model.get("trained_on") or {}
    of_training = card.data["splits"]["train"] if card.data else {}
    labels = trained_on.get("labels") or {
        task.name: of_training[task.label] for task in card.tasks if task.label in of_training
    }
    return template.render(
        card=card,
        head=_head(card),
        trained_on=trained_on,
        began_with=list(_before(trained_on)),
        labels=labels,
        untrained=[task for task, count in labels.items() if not count],
        leads=LEADS,
        table=markdown_rows([header(card.metrics), *rows(card.metrics, METRICS)]),
        footnotes=footnotes(card.metrics),
        subgroups=markdown_rows(_subgroups(card.metrics)),
        calibrated=markdown_rows(_calibrated(card)),
        splits=markdown_rows(_splits(card)),
        min_patients=MIN_PATIENTS,
        research_only=RESEARCH_ONLY,
    )


def _before(trained_on: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the models were trained on that this one goes back to, the last one first."""
    while trained_on := trained_on.get("before") or {}:
        yield trained_on


def _head(card: Card) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=f"ecg-{task}",
            task_name=task,
            dataset_type=card.dataset,
            dataset_name=card.evaluated,
            metric_type=metric,
            metric_name=with_unit(metric, task),
            metric_value=values[metric],
        )
        for task, metric, values in measured(card.metrics, SHOWN)
        # A figure that is no claim has no place in a list that others are compared in.
        if values[metric] is not None and not values.get("note")
    ]
    # One tag of what it was trained on, so that nobody finds a model of simulated ECGs among those of real ones.
    tags = ["ecg", "electrocardiography", "mixture-of-experts", f"trained-on-{card.dataset}"]
    return str(ModelCardData(library_name="ecgmoe", tags=tags, model_name=card.name, eval_results=results).to_yaml())


def _splits(card: Card) -> list[tuple[str, ...]]:
    if card.data is None:
        return []
    columns = [(task.name, task.label) for task in card.tasks]
    table = [("split", "patients", "records", *(f"labels of {name}" for name, _ in columns))]
    for split, counts in card.data["splits"].items():
        labels = (counts.get(label, 0) for _, label in columns)
        table.append((split, *(f"{count:,}" for count in (counts["patients"], counts["records"], *labels))))
    return table


def _subgroups(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found = [
        (
            each["by"],
            each["group"],
            each["task"],
            with_unit(each["metric"], each["task"]),
            f"{each['n']:,}",
            number(each["value"]),
            _interval(each["ci"]),
        )
        for each in metrics["subgroups"]
        if each["by"] in OF_PEOPLE and each["value"] is not None
    ]
    return [("by", "group", "task", "metric", "n", "model", "95 % interval"), *found] if found else []


def _calibrated(card: Card) -> list[tuple[str, ...]]:
    """Coverage of intervals and sets, and calibration error before and after, by task."""
    table: list[tuple[str, ...]] = []
    for task, found in card.metrics["calibration"].items():
        conformal = found.get("conformal") or {}
        promised = f"{conformal['level']:.0%}" if conformal else "-"
        covered = f"{conformal['coverage']:.1%}" if conformal else "-"
        before = number(card.metrics["tasks"][task].get("ece"))
        table.append((task, promised, covered, before, number(found.get("ece"))))
    head = ("task", "promised coverage", "coverage", "calibration error before", "after")
    return [head, *table] if table else []


def _interval(ends: Sequence[float] | None) -> str:
    return f"{number(ends[0])} .. {number(ends[1])}" if ends else "-"
