"""Reading and R peaks beside the libraries that others call."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgmoe.benchmark.page import rows_of
from ecgmoe.benchmark.parts import parts_benchmark
from ecgmoe.ecg.simulate import SimulationConfig, simulate


def test_each_part_beside_its_library(tmp_path: Path) -> None:
    simulate(tmp_path, SimulationConfig(patients=6, studies=12))
    found = parts_benchmark("simulated", str(tmp_path), records=10, pairs=6)
    assert found["asked"] == 10
    assert {name: set(part["bare"]) for name, part in found["parts"].items()} == {
        "read": {"wfdb_millivolt", "wfdb_digital"},
        "r_peaks": {"neurokit2_lead_ii"},
    }
    for part in found["parts"].values():
        assert 0 < part["records"] <= 10
        assert part["records_per_second"] > 0
        for bare in part["bare"].values():
            times = bare["times_as_fast"]
            assert bare["records_per_second"] > 0
            assert len(times["ratios"]) == 6
            assert 0 < times["low"] <= times["median"] <= times["high"]
    rows = rows_of({"stage": "parts", **found})
    assert [row.stage for row in rows] == ["parts"] * 3
    assert all(row.ratio is not None for row in rows)


def test_what_nobody_can_read_is_told(tmp_path: Path) -> None:
    simulate(tmp_path, SimulationConfig(patients=1, studies=1))
    for file in tmp_path.rglob("*.dat"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no WFDB record that can be read: choose another --root"):
        parts_benchmark("simulated", str(tmp_path), pairs=6)
