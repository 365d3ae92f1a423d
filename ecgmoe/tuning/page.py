"""One self-contained HTML page for searches and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ecgmoe.html_page import environment

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the page.

    Attributes:
        heading: of the section.
        text: below it.
        rows: of a table, the first of them its head; a cell in ** is printed bold.
        picture: SVG text made by this program.
        caption: of the picture.
    """

    heading: str
    text: str = ""
    rows: Rows = ()
    picture: str = ""
    caption: str = ""


def render(title: str, notes: Sequence[str], parts: Sequence[Part]) -> str:
    """The page as HTML text; everything but the pictures is escaped."""
    template = environment("ecgmoe.tuning").get_template("tuning.html")
    return template.render(title=title, notes=notes, parts=[asdict(part) for part in parts])
