"""A report as one self-contained HTML page: nothing is loaded from elsewhere, and everything from the data is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from ecgmoe.evaluation import plots
from ecgmoe.evaluation.bootstrap import RESAMPLES
from ecgmoe.evaluation.known import Known, known_arrays
from ecgmoe.evaluation.report import METRICS, RESEARCH_ONLY, footnotes, header, number, predictors, rows, with_unit
from ecgmoe.evaluation.subgroups import MAIN, MIN_PATIENTS
from ecgmoe.html_page import data_url, environment
from ecgmoe.tasks import Task

Values = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page shows.

    Attributes:
        title: of the report.
        notes: what a reader must not overlook.
        metrics: the content of metrics.json.
        predictions: what the figures were computed from.
        tasks: those of the model.
        beside: predictions of others by predictor and task, for every row of `predictions`.
        routing: of `routing_summary`; None where the model has no experts.
        worst: PNG pictures of the worst errors by caption.
        card: card.json of the records' dataset; None where it has none.
        facts: by heading, name and value of what was measured or is known of the run.
    """

    title: str
    notes: Sequence[str]
    metrics: Mapping[str, Any]
    predictions: pa.Table
    tasks: Sequence[Task]
    beside: Mapping[str, Mapping[str, Values]] = field(default_factory=dict)
    routing: Mapping[str, Any] | None = None
    worst: Mapping[str, bytes] = field(default_factory=dict)
    card: Mapping[str, Any] | None = None
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of the page: its alternative text and a data URL."""

    text: str
    url: str


def render(page: Page) -> str:
    """The page as HTML."""
    return render_both(page)[0]


def render_both(page: Page) -> tuple[str, str]:
    """The page as HTML, and the same without the records of patients: no study id and no ECG, for who may not see them."""
    templates = environment("ecgmoe.evaluation")
    templates.filters["figure"] = number
    templates.filters["share"] = lambda value: "-" if value is None else f"{value:.1%}"
    templates.filters["count"] = lambda value: f"{value:,}"
    templates.filters["spaced"] = lambda name: str(name).replace("_", " ")
    known = {
        task.name: known_arrays(task, page.predictions) for task in page.tasks if task.name in page.metrics["tasks"]
    }
    values = {
        "page": page,
        "metrics": page.metrics,
        "header": header(page.metrics),
        "rows": rows(page.metrics, METRICS),
        "differences": list(_differences(page.metrics)),
        "footnotes": footnotes(page.metrics),
        "research_only": RESEARCH_ONLY,
        "min_patients": MIN_PATIENTS,
        "resamples": RESAMPLES,
        "groups": _by_group(page.metrics.get("subgroups", [])),
        "pictures": {section: list(found) for section, found in _pictures(page, known).items()},
    }
    worst = [Picture(text=caption, url=data_url(png)) for caption, png in page.worst.items()]
    template = templates.get_template("report.html")
    return template.render(**values, worst=worst), template.render(**values, worst=[])


def _differences(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Paired differences of the main metric to every predictor beside the model."""
    for name in predictors(metrics):
        for task, values in metrics["tasks"].items():
            found = values["beside"].get(name) or {}
            for metric in METRICS:
                if (interval := found.get(f"{metric}_difference_ci")) is not None:
                    yield {
                        "predictor": name,
                        "task": task,
                        "metric": with_unit(metric, task),
                        "value": found[f"{metric}_difference"],
                        "interval": interval,
                        "apart": interval[0] > 0 or interval[1] < 0,
                    }


def _by_group(subgroups: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """Subgroup figures by (what they are grouped by, group) and task."""
    table: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in subgroups:
        table.setdefault((row["by"], row["group"]), {})[row["task"]] = row
    return table


def _pictures(page: Page, known: Mapping[str, Known]) -> dict[str, Iterator[Picture]]:
    """Pictures by section of the page."""
    return {
        "agreement": _agreement(page, known),
        "curves": _curves(page, known),
        "confusion": _confusion(page),
        "reliability": _reliability(page),
        "routing": _routing(page),
        "subgroups": _subgroups(page),
    }


def _agreement(page: Page, known: Mapping[str, Known]) -> Iterator[Picture]:
    for task in page.tasks:
        if task.kind == "regression" and task.name in known:
            figure = plots.bland_altman(task, known[task.name], page.metrics["tasks"][task.name])
            yield _picture(f"Bland-Altman plot of {plots.TITLES[task.name]}", figure)


def _curves(page: Page, known: Mapping[str, Known]) -> Iterator[Picture]:
    for task in page.tasks:
        values = page.metrics["tasks"].get(task.name)
        if task.kind == "binary" and values and values["auroc"] is not None:
            found = known[task.name]
            beside = {name: each[task.name][found.rows] for name, each in page.beside.items() if task.name in each}
            figure = plots.roc_and_pr(task, found, values, beside)
            yield _picture(f"ROC and precision-recall curves of {plots.TITLES[task.name]}", figure)


def _confusion(page: Page) -> Iterator[Picture]:
    for task, found in page.metrics.get("confusion", {}).items():
        figure = plots.confusion_matrix(plots.TITLES[task], found["classes"], found["counts"])
        yield _picture(f"Confusion matrix of {plots.TITLES[task]}", figure)


def _reliability(page: Page) -> Iterator[Picture]:
    entries = {task: entry for task, entry in page.metrics.get("calibration", {}).items() if "reliability" in entry}
    if entries:
        before = {task: page.metrics["tasks"][task]["ece"] for task in entries}
        yield _picture("Reliability diagrams", plots.reliability_diagram(entries, before))


def _routing(page: Page) -> Iterator[Picture]:
    if page.routing is None:
        return
    experts = page.routing["experts"]
    yield _picture("Gate by task", plots.gates(page.routing["by_task"], experts, "gate by task"))
    if classes := page.routing.get("by_rhythm_class"):
        named = {f"{name.replace('_', ' ')} ({values['records']})": values for name, values in classes.items()}
        yield _picture(
            "Gate by rhythm", plots.gates(named, experts, "gate of the task arrhythmia, by labelled class (records)")
        )


def _subgroups(page: Page) -> Iterator[Picture]:
    overall = {}
    for task in page.tasks:
        values = page.metrics["tasks"].get(task.name, {})
        metric = MAIN[task.kind]
        if values.get(metric) is not None:
            overall[task.name] = {"name": with_unit(metric, task.name), "value": values[metric]}
    figure = plots.subgroup_plot(page.metrics.get("subgroups", []), overall)
    if figure is not None:
        yield _picture("Main metrics by subgroup", figure)


def _picture(text: str, figure: Any) -> Picture:
    return Picture(text=text, url=data_url(plots.svg(figure).encode(), "svg+xml"))
