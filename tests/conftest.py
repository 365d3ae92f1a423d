"""Settings and fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# No test asks a hub, and the processes that tests start inherit this.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in this hook too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What two processes may run side by side (`--dist loadgroup`): the tests of one file stay together, those of Ray too.

    Two Rays on two cores starve each other. As the longest group theirs begins first.
    """
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else str(item.path)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real recordings beside the repository; skips where they are not."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real recordings are not there ({SHARED / 'data'})")
    return SHARED / "data"
