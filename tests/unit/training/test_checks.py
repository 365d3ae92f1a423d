"""What is refused before anything long begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecgmoe.config import tiny
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.training import run
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


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        (
            [{"CPU": 2.0}],
            {"num_workers": 4},
            "4 workers need 4 CPUs and this cluster has 2: set --training.num-workers to at most 2",
        ),
        (
            [{"CPU": 64.0, "GPU": 1.0}],
            {"num_workers": 2, "use_gpu": True},
            "2 workers need 2 GPUs and this cluster has 1: set --training.num-workers to at most 1, or "
            "--training.no-use-gpu to train on CPUs",
        ),
        (
            [{}],
            {"num_workers": 1},
            "1 workers need 1 CPUs and this cluster has 0: start Ray with some (ray start --num-cpus N)",
        ),
        # Halves of two nodes hold no third worker.
        (
            [{"CPU": 1.5}, {"CPU": 1.5}],
            {"num_workers": 4},
            "4 workers need 4 CPUs and this cluster has 2: set --training.num-workers to at most 2",
        ),
    ],
)
def test_a_layout_that_would_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(run, "connect", lambda: None)
    monkeypatch.setattr(run, "alive_nodes", lambda: [{"Resources": each} for each in nodes])
    waits: list[str] = []
    monkeypatch.setattr(run, "say_who_waits", lambda stage, operators: waits.append(stage))
    training = replace(tiny().training, **options)
    with pytest.raises(ValueError) as error:
        run.check_resources(training)
    assert str(error.value) == message
    assert not waits
    there = int(message.split("cluster has ")[1][0])
    if there:
        run.check_resources(replace(training, min_workers=there))
        assert waits == ["training"]
