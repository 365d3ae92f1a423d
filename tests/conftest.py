"""Settings and fixtures that several tests share."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# No test asks a hub, and the processes that tests start inherit this.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

BESIDE_ANOTHER = "PYTEST_XDIST_WORKER" in os.environ
if BESIDE_ANOTHER:
    # Processes of pytest-xdist ignore SIGINT, and the jobs that tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


NICE = 19
"""Ray's workers have 15."""
FIRST = ("ray", "timing")
"""Marks of tests of the process that does not stand back."""


class OneRay(LoadFileScheduling):
    """Two processes run files side by side, but all files with tests of Ray are one's: two Rays on two cores starve.

    Tests that compare times are that one's too, since the other process stands back behind it.

    Groups of pytest-xdist would say so too, but 3.8 hangs their names on what pytest 9.2 does not read any more.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = super()._split_scope(nodeid)
        return "first" if _comes_first(path) else path


@cache
def _comes_first(path: str) -> bool:
    text = (REPOSITORY / path).read_text()
    return any(f"pytest.mark.{mark}" in text for mark in FIRST)


def _is_first(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(mark) for mark in FIRST)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """For `-n`."""
    return OneRay(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of Ray take longest, and Ray's own workers stand back behind everything else: the other process does more so."""
    if BESIDE_ANOTHER and not _is_first(item) and os.nice(0) < NICE:
        os.nice(NICE - os.nice(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: not _is_first(item))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real recordings beside the repository; skips where they are not."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real recordings are not there ({SHARED / 'data'})")
    return SHARED / "data"
