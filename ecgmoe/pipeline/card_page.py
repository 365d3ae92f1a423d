"""The dataset card as one self-contained HTML page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecgmoe.ecg.paper import ecg_png
from ecgmoe.ecg.record import Signal
from ecgmoe.html_page import data_url, environment


@dataclass(frozen=True, kw_only=True)
class Example:
    """A record to draw: int16 (12, 5000) microvolt, R peaks in samples."""

    title: str
    signal: Signal
    r_peaks: list[int]


@dataclass(frozen=True, kw_only=True)
class Names:
    """How the page calls what the card counts.

    Attributes:
        distributions: column to name and unit.
        classes: column to class names.
        titles: column of `classes` to heading.
        flags: column to what it says about a record.
    """

    distributions: Mapping[str, tuple[str, str]]
    classes: Mapping[str, tuple[str, ...]]
    titles: Mapping[str, str]
    flags: Mapping[str, str]


def render(card: dict[str, Any], names: Names, examples: list[Example]) -> str:
    """The page of `card.summary`'s numbers. Everything that comes from the dataset is escaped."""
    templates = environment("ecgmoe.pipeline")
    templates.filters["share"] = lambda value: "not known" if value is None else f"{value:.1%}"
    templates.filters["number"] = lambda value: f"{value:,}"
    pictures = [
        {"title": example.title, "data": data_url(ecg_png(example.signal, example.r_peaks, example.title))}
        for example in examples
    ]
    known = {name: value for name, value in card["distributions"].items() if value["count"]}
    histograms = data_url(_histograms(known, names)) if known else None
    return templates.get_template("card.html").render(card=card, names=names, pictures=pictures, histograms=histograms)


def _histograms(distributions: dict[str, dict[str, Any]], names: Names) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(distributions), 2.4), layout="tight")
    for axes, (column, values) in zip(
        figure.subplots(1, len(distributions), squeeze=False)[0], distributions.items(), strict=True
    ):
        name, unit = names.distributions[column]
        edges = values["histogram"]["edges"]
        axes.stairs(values["histogram"]["counts"], edges, fill=True, color="#4a7fb0")
        axes.axvline(values["quantiles"]["0.5"], color="black", linewidth=0.8, linestyle="--")
        axes.set_title(f"{name} ({unit}), median dashed", fontsize=8)
        axes.set_ylabel("records", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()
