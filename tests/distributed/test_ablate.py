"""tune/ablate.py as a user calls it: what it says beforehand under the paper's protocol, and a small table, cut off and gone
on with."""

from __future__ import annotations

import csv
import os
import re
import signal
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.pipeline.config import paper
from jobs import REPOSITORY, Running, running
from prepared_examples import prepare_here, simulated_and_prepared

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


def ablate(folder: Path, log: str, *options: str) -> AbstractContextManager[Running]:
    places = ["--data", str(folder / "data"), "--storage", str(folder / "runs"), "--name", "t"]
    paths = [str(REPOSITORY), str(REPOSITORY / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    return running(
        folder / log, "ablate", "tuning_examples:small", *places, *options, environment=environment, folder="tune"
    )


def test_a_dry_run_of_the_papers_protocol(tmp_path: Path) -> None:
    """On simulated ECGs, which have no 10,000 patients, and on one seed and fold, as far as anything is computed."""
    simulate(tmp_path / "raw", SimulationConfig(patients=80, studies=160, seed=1))
    prepare_here(tmp_path / "raw", tmp_path / "data", paper())
    with ablate(tmp_path, "log", "--protocol", "paper", "--tables", "table2", "table3", "--dry-run") as run:
        assert run.wait() == 0, run.text()
        said = run.text()
    # Single DLinear, four mixtures and ECG-MoE, three seeds and five folds; one training at a time on each CPU.
    found = re.search(r"tables: 90 trainings, (\d+) at once with 1 workers each: about ([\d.]+) CPU hours", said)
    assert found, said
    assert int(found[1]) == os.cpu_count()
    assert float(found[2]) > 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_table_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    simulated_and_prepared(tmp_path, patients=90, studies=160)
    options = ("--tables", "table2", "--seeds", "0", "1", "--folds-computed", "0")
    with ablate(tmp_path, "first", *options) as run:
        run.wait_for("1 of 4 after")
        mine = run.descendants("")
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 130, run.text()
        assert not psutil.wait_procs(mine, timeout=30)[1]
    with ablate(tmp_path, "again", *options) as run:
        assert run.wait(1200) == 0, run.text()
        said = run.text()
    assert re.search(r"[123] of 4 cells are finished", said)
    assert "Random-initialised" in said
    with (tmp_path / "runs" / "t" / "report" / "table2.csv").open() as file:
        rows = {(row["variant"], row["task"], row["metric"]): row for row in csv.DictReader(file)}
    for name in ("single_dlinear", "ecg_moe"):
        assert float(rows[name, "age", "mae"]["sd"]) > 0
        assert float(rows[name, "age", "mae"]["records_per_s"]) > 0
    assert float(rows["single_dlinear", "age", "mae"]["difference_ci_low"]) != 0
