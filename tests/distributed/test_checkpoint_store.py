"""A checkpoint counts when its manifest is there and its files are as they were written; else the one before does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkpoint_examples import write_and_find
from distributed import run_distributed
from ecgmoe.pipeline.store import Store
from ecgmoe.training.checkpoint_store import CheckpointStore

pytestmark = pytest.mark.distributed

SAID = {
    "cut": "rank-1.pt has 100 bytes, not",
    "changed": "rank-1.pt has other content",
    "missing": "rank-1.pt is missing",
    "manifest cut": "manifest.json is torn",
}
"""What is done to the last checkpoint, and what is said of it."""
CASES: dict[str, tuple[list[float | None], str | None]] = {
    **{damage: ([0.1, 0.2, 0.3], damage) for damage in SAID},
    "eight": ([None, 0.5, None, 0.9, None, 0.7, None, None], None),
    "never committed": ([0.1, 0.2], "never committed"),
    "all": ([0.1, 0.2], "all"),
    "none": ([], None),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(root: Path) -> dict[str, list[dict[str, Any]]]:
    """What each rank found, by case; what was printed stands in root/said."""
    cases = [{"root": str(root / name), "scores": scores, "damage": damage} for name, (scores, damage) in CASES.items()]
    ranks = run_distributed(write_and_find, 2, cases, log=root / "said")
    return {name: [rank[position] for rank in ranks] for position, name in enumerate(CASES)}


def test_the_last_two_and_the_best_are_kept(root: Path, found: dict[str, list[dict[str, Any]]]) -> None:
    eight = found["eight"]
    assert eight[0]["committed"] == [f"step-0000000{step}-epoch-0001" for step in (4, 7, 8)]
    assert [(each["found"], each["content"]) for each in eight] == [(8, 8.0), (8, 8.0)]
    best = CheckpointStore(Store(root / "eight")).best()
    assert best is not None
    assert best.step == 4


@pytest.mark.parametrize("damage", SAID)
def test_a_damaged_one_is_passed_over_and_told(root: Path, found: dict[str, list[dict[str, Any]]], damage: str) -> None:
    assert [(each["found"], each["content"]) for each in found[damage]] == [(2, 2.0), (2, 2.0)]
    said = [line for line in (root / "said").read_text().splitlines() if f"{root / damage}/" in line]
    folder = root / damage / "checkpoints" / "step-00000003-epoch-0001"
    assert len(said) == 1
    assert said[0].startswith(f"DAMAGED CHECKPOINT {folder} ({SAID[damage]}")
    assert said[0].endswith("it is passed over, and the run goes on from the one before")


def test_one_that_was_never_committed_is_cleared_away(root: Path, found: dict[str, list[dict[str, Any]]]) -> None:
    assert [each["found"] for each in found["never committed"]] == [1, 1]
    left = (root / "never committed" / "checkpoints").iterdir()
    assert [path.name for path in left] == ["step-00000001-epoch-0001"]


def test_a_run_without_any_begins_at_its_beginning(found: dict[str, list[dict[str, Any]]]) -> None:
    assert [(each["found"], each["error"]) for each in found["none"]] == [(None, ""), (None, "")]


def test_where_all_are_damaged_the_run_does_not_begin_anew_by_itself(
    root: Path, found: dict[str, list[dict[str, Any]]]
) -> None:
    for each in found["all"]:
        assert each["error"].startswith(f"every checkpoint in {root / 'all' / 'checkpoints'} is damaged")
        assert each["error"].endswith("delete that folder to train the run from its beginning")
    assert len(found["all"][0]["committed"]) == 2


def test_a_damaged_model_is_not_exported(
    root: Path, found: dict[str, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    last = root / "eight" / "checkpoints" / "step-00000004-epoch-0001" / "model" / "model.safetensors"
    content = last.read_bytes()
    last.write_bytes(b"x")
    best = CheckpointStore(Store(root / "eight")).best()
    last.write_bytes(content)
    assert best is not None
    assert best.step == 8
    assert "model/model.safetensors has 1 bytes, not 1,000): not exported" in capsys.readouterr().out
