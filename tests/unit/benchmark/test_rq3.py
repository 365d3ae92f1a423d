"""The page of the paper's third question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecgmoe.benchmark import rq3
from ecgmoe.benchmark.inference import BASELINE, COPIES, ECG_MOE
from tuning_examples import small


def test_times_of_all_tasks_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are measured; memory, which takes a process each, is not."""
    monkeypatch.setattr(rq3, "_memory", lambda *_: 5_000_000)
    found = rq3.rq3(small(), name="t", storage=str(tmp_path))
    report = tmp_path / "t" / "report"
    assert json.loads((report / "rq3.json").read_text()) == json.loads(json.dumps(found))
    for records in rq3.BATCHES:
        times = found[f"batch_{records}"]["times_ecg_moe"]
        assert times.keys() == {BASELINE, COPIES}
        assert len(times[COPIES]["ratios"]) == 15
        # Five models do five times the work; not less than twice, however busy the machine.
        assert times[COPIES]["median"] > 2
        assert times[COPIES]["low"] <= times[COPIES]["median"] <= times[COPIES]["high"]
    head, *lines = rq3.rows(found)
    assert head[4] == "times as long as ECG-MoE"
    assert [line[:2] for line in lines] == [
        (str(records), model) for records in rq3.BATCHES for model in (ECG_MOE, BASELINE, COPIES)
    ]
    assert {line[5] for line in lines} == {"5"}
    text = (report / "rq3.md").read_text()
    assert "random-initialised backbones: dlinear" in text
    assert "not to be compared with these figures" in text
