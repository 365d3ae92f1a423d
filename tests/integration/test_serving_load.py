"""A server under load: every request is answered, every bad one with a reason, and memory stays where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgmoe.benchmark.serving import LEAVING, STALLED, serving_benchmark
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from predict_examples import calibrated_model

pytestmark = [pytest.mark.distributed, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1200)]

CLIENTS = (1, 4, 16, 64, 64, 64, 64, 64)
GOOD = 126
WARM = 4
"""Round after which each process has met as many clients as will come."""


def test_a_thousand_good_and_half_as_many_bad_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGMOE_HOME", str(tmp_path))
    simulate(tmp_path / "raw", SimulationConfig(patients=40, studies=40, hosp=False, damaged=False))
    found = serving_benchmark(calibrated_model(tmp_path / "model"), tmp_path / "raw", good=GOOD, clients=CLIENTS)
    rounds = found["rounds"]
    assert sum(each["good_status"].get("200", 0) for each in rounds) == GOOD * len(CLIENTS) > 1000
    bad = [
        (kind, status, count)
        for each in rounds
        for kind, met in each["bad_status"].items()
        for status, count in met.items()
    ]
    assert sum(count for *_, count in bad) == GOOD // 2 * len(CLIENTS)
    assert [each for each in bad if not each[1].startswith("4")] == []
    # Who stops sending is told so; who has left cannot be.
    assert rounds[-1]["broken_off_status"] == {408: STALLED, 0: LEAVING}
    # With 64 clients batches have to form.
    assert rounds[-1]["records_per_pass"] > 2
    before, after = rounds[WARM]["memory_mb"], rounds[-1]["memory_mb"]
    for process in ("Ingress", "Model", "ServeController"):
        assert after[process]["own"] < before[process]["own"] * 1.05, process
    # How many oversized bodies of 16 MB the proxy holds at the same time is chance.
    assert after["ProxyActor"]["own"] < before["ProxyActor"]["own"] + 3 * 16
