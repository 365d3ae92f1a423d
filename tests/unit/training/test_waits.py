"""When a wait for data is worth a warning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ecgmoe.training.loader import ASSEMBLING
from ecgmoe.training.waits import Wait, WaitWarning


def check(warning: WaitWarning, epoch: int, seconds: float, **reading: float) -> None:
    warning.check(epoch, Wait(rank=1, seconds=seconds, of=20.0, reading=dict(reading)))


@pytest.fixture
def warning() -> WaitWarning:
    reader: Any = SimpleNamespace(data=SimpleNamespace(store=SimpleNamespace(root="/data")))
    return WaitWarning(reader, 4)


def test_not_of_a_cold_start_and_once_an_epoch(warning: WaitWarning, capsys: pytest.CaptureFixture[str]) -> None:
    for epoch in (0, 0, 0, 1, 1):
        check(warning, epoch, 5.0, signals=4.0, other=1.0)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "25% of the time of a step on rank 1, most of it signals (4.0 of 5.0 s of its reading)" in said[0]


def test_not_below_five_per_cent_nor_half_a_second(warning: WaitWarning, capsys: pytest.CaptureFixture[str]) -> None:
    for seconds, of in ((9.0, 20.0), (0.99, 20.0), (0.4, 1.0)):
        warning.check(0, Wait(rank=0, seconds=seconds, of=of, reading={"signals": 1.0}))
    assert capsys.readouterr().out == ""
    check(warning, 0, 1.01, signals=1.0)
    assert "5% of the time" in capsys.readouterr().out


def test_the_remedy_is_that_of_the_stage(warning: WaitWarning) -> None:
    assert warning.remedy(ASSEMBLING).startswith("give each worker a second CPU core")
    assert "a copy of /data on a local or faster disk" in warning.remedy("reading signals")
    assert "--training.read-ahead above 4" in warning.remedy("reading signals")
    assert "live instead of cached" in warning.remedy("reading features of moment")
