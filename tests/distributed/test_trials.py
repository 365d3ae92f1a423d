"""Ray Tune as searches and tables use it: a trial that fails, one that dies, what is left afterwards, going on."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray._private.state import actors
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.util import placement_group_table

from ecgmoe.pipeline.ray_data import connect
from ecgmoe.pipeline.store import Store
from ecgmoe.tuning.trials import Ended, run_trials

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


def call(values: dict[str, Any]) -> None:
    """Count the calls of each number in the folder, then do what the number says."""
    number, folder = values["number"], Path(values["folder"])
    with (folder / str(number)).open("a") as file:
        file.write("x")
    if number == 1:
        raise ValueError("lead V9 is unknown")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    tune.report({"best_score": float(number), "epoch": 1.0})


def run(folder: Path) -> list[Ended]:
    return run_trials(
        call,
        {"number": tune.grid_search([0, 1, 2, 3]), "folder": str(folder)},
        store=Store(folder / "state"),
        name="numbers",
        at_once=2,
        label=lambda values: f"number {values['number']}",
        total=4,
        go_on=True,
    )


def test_trials_that_fail_end_none_of_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    connect(2, dashboard=False)
    try:
        ended = {each.values["number"]: each for each in run(tmp_path)}
        assert {number: each.last.get("best_score") for number, each in ended.items()} == {
            0: 0.0,
            1: None,
            2: None,
            3: 3.0,
        }
        assert "lead V9 is unknown" in (ended[1].failure or "")
        assert ended[2].failure
        assert ended[0].failure is None
        assert [ended[number].lost for number in range(4)] == [False, False, True, False]
        said = capfd.readouterr().out
        assert "number 3: 1 epochs, score 3.0000" in said
        assert re.search("number 1: FAILED: .*lead V9 is unknown", said)
        # Called again it computes nothing anew, and knows what there was.
        again = {each.values["number"]: each for each in run(tmp_path)}
        assert again[3].last["best_score"] == 3.0
        assert "lead V9 is unknown" in (again[1].failure or "")
        assert {number: (tmp_path / str(number)).read_text() for number in range(4)} == dict.fromkeys(range(4), "x")
        # Asked of this Ray itself: the state API refuses to choose where the machine has another one.
        assert not [each for each in actors().values() if each["State"] != "DEAD"]
        assert not [each for each in placement_group_table().values() if each["state"] != "REMOVED"]
    finally:
        ray.shutdown()


def stay(values: dict[str, Any]) -> None:
    """Write down how many are there with this one."""
    here = Path(values["folder"]) / f"{values['number']}"
    here.touch()
    time.sleep(2)
    (here.parent.parent / "most").open("a").write(f"{len(list(here.parent.iterdir()))} ")
    here.unlink()


def test_no_more_trials_at_once_than_asked_for(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    connect(2, dashboard=False)
    try:
        ended = run_trials(
            stay,
            {"number": tune.uniform(0, 1), "folder": str(there)},
            store=Store(tmp_path / "state"),
            name="random",
            at_once=2,
            label=lambda values: f"number {values['number']}",
            total=6,
            config=tune.TuneConfig(num_samples=6, search_alg=BasicVariantGenerator(random_state=1)),
        )
    finally:
        ray.shutdown()
    assert not [each.failure for each in ended if each.failure]
    counted = [int(each) for each in (tmp_path / "most").read_text().split()]
    assert len(counted) == 6
    assert max(counted) == 2
