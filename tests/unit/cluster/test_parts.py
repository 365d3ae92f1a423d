"""Every document is of a part that is applied, and pages name files that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs import REPOSITORY
from manifests import OVERLAYS, documents


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_belongs_to_a_part_that_is_applied(name: str) -> None:
    """cluster/README.md applies by this label; what has none would never be."""
    parts: dict[str, set[str]] = {}
    for document in documents(name):
        part = document["metadata"]["labels"]["app.kubernetes.io/component"]
        parts.setdefault(part, set()).add(document["kind"])
    starts = {"train": {"RayJob"}, "tune": {"RayJob"}, "cluster": {"RayCluster"}, "serve": {"RayService"}}
    assert {part: kinds for part, kinds in parts.items() if part != "platform"} == starts
    assert not [kind for kind in parts["platform"] if kind.startswith("Ray")]


def test_pages_name_files_that_there_are() -> None:
    for page in ("cluster/README.md", "SECURITY.md"):
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", (REPOSITORY / page).read_text()):
            assert (REPOSITORY / Path(page).parent / link).exists(), (page, link)
