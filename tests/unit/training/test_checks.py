"""What is refused before anything long begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ecgmoe.config import tiny
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.training.run import check_labels
from prepared_examples import prepare_here


def test_data_without_a_label_of_any_task(tmp_path: Path) -> None:
    simulate(tmp_path / "raw", SimulationConfig(patients=30, studies=60, seed=1))
    # Without the hosp tables nobody knows age, sex and potassium.
    prepare_here(tmp_path / "raw", tmp_path / "data", dataset="mimic-iv-ecg")
    data = PreparedData(str(tmp_path / "data"))
    check_labels(data, tiny())
    check_labels(data, replace(tiny(), tasks=("rr", "potassium")))
    with pytest.raises(ValueError, match=r"has no label of age, sex in its train split \(\d+ records\): give labels"):
        check_labels(data, replace(tiny(), tasks=("age", "sex")))
