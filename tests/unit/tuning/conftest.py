"""What the tests of tables and cross-validations have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from cell_fakes import Fakes
from prepared_examples import simulated_and_prepared


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared once for all of them, which only read it."""
    return simulated_and_prepared(tmp_path_factory.mktemp("cells"), patients=90, studies=150)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)
