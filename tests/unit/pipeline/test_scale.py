"""What prepare says before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgmoe.pipeline.config import Compression
from ecgmoe.pipeline.progress import Progress
from ecgmoe.pipeline.scale import announce
from ecgmoe.pipeline.store import Store


@pytest.mark.parametrize(
    ("studies", "compression", "text"),
    [
        (240, "zstd", "about 13 MB to write"),
        (800_035, "zstd", "about 42.4 GB to write"),
        (800_035, "lz4", "about 57.2 GB to write"),
        (800_035, "none", "about 96.2 GB to write"),
    ],
)
def test_the_plan_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], studies: int, compression: Compression, text: str
) -> None:
    announce(Store(tmp_path / "not" / "there"), studies, 7, compression)
    assert f"prepare: {studies:,} studies to read in 7 shards, {text}, " in capsys.readouterr().out


def test_the_time_left_of_a_long_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ecgmoe.pipeline.progress.time.perf_counter", lambda: now[0])
    progress = Progress("prepare", 800_000)
    now[0] = 100.0
    progress.add(10_000)
    assert capsys.readouterr().out == "prepare: 10,000 of 800,000 records, 100 records/s, 2:11 h left\n"
