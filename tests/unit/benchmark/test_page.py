"""One page of what the stages measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ecgmoe.benchmark.page import write_page
from ecgmoe.benchmark.paired import ratio
from jobs import job

MACHINE = {
    "command": "python jobs/benchmark.py --stage training",
    "date": "2026-01-02",
    "revision": "abc",
    "cpus": 2,
    "processor": "a processor",
    "memory_gib": 23.5,
    "versions": {"torch": "2"},
}


def training(share: float, revision: str = "abc") -> dict[str, Any]:
    return {
        "stage": "training",
        "machine": MACHINE | {"revision": revision},
        "preset": "bench",
        "records_per_step": 16,
        "ms_per_step": 500.0,
        "bare_ms_per_step": 500.0 * share,
        "bare_share": asdict(ratio([share] * 10, [1.0] * 10)),
    }


def write(folder: Path, name: str, result: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(result))


def test_what_was_reached_and_what_was_missed(tmp_path: Path) -> None:
    write(tmp_path, "training.json", training(0.97))
    write(tmp_path, "again.json", training(0.94))
    unclear = training(0.97)
    unclear["bare_share"] |= {"low": 0.9}
    write(tmp_path, "unclear.json", unclear)
    for _ in range(2):
        page = write_page(str(tmp_path))
        assert {row["verdict"] for row in page["rows"]} == {
            "reached (at least 0.95)",
            "MISSED (at least 0.95)",
            "not shown (at least 0.95)",
        }
        text = (tmp_path / "benchmark.md").read_text()
        assert "| training | a step of 16 records, preset bench | 500 ms | " in text
        assert "0.97 (0.97 to 0.97) | reached (at least 0.95) |" in text
        assert "2 cores (a processor), 24 GiB; torch 2." in text
        assert "different machines" not in text
    assert ElementTree.parse(tmp_path / "benchmark.svg").getroot().tag.endswith("svg")
    picture = (tmp_path / "benchmark.svg").read_bytes()
    write_page(str(tmp_path))
    assert (tmp_path / "benchmark.svg").read_bytes() == picture
    assert json.loads((tmp_path / "benchmark.json").read_text())["stages"].keys() == {"training", "again", "unclear"}
    write(tmp_path, "later.json", training(0.97, revision="def"))
    write_page(str(tmp_path))
    assert "different machines, versions or revisions" in (tmp_path / "benchmark.md").read_text()


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(-3.0, 8.0, "reached"), (11.0, 30.0, "MISSED"), (-3.0, 30.0, "not shown")]
)
def test_an_aim_in_milliseconds(tmp_path: Path, low: float, high: float, verdict: str) -> None:
    longer = {"median": 5.0, "low": low, "high": high}
    write(tmp_path, "tiny.json", training(0.97) | {"preset": "tiny", "longer_ms": longer})
    (row,) = write_page(str(tmp_path))["rows"]
    assert row["verdict"] == f"{verdict} (5.0 ms longer, {low:.1f} to {high:.1f}; at most 10)"


def test_what_was_not_run_follows_from_the_results(tmp_path: Path) -> None:
    roofline: dict[str, Any] = {
        "stage": "roofline",
        "machine": MACHINE,
        "device": "cpu",
        "device_name": "cpu",
        "size": "tiny",
        "precision": "fp32",
        "backbones": {},
    }
    told = "the roofline and MFU on a GPU, and the memory beside the paper's 8.2 GB"
    for device, missing in (("cpu", True), ("cuda", False)):
        write(tmp_path, "roofline.json", {**roofline, "device": device})
        write_page(str(tmp_path))
        text = (tmp_path / "benchmark.md").read_text()
        assert (told in text) == missing
        assert "**Not run**: scaling over GPUs" in text
    share = {"median": 1.8, "low": 1.7, "high": 1.9, "ratios": [1.8]}
    workers = {"2": {"ms_per_step": 50.0, "times_as_fast": share, "apart_ms_per_step": 45.0, "apart_share": share}}
    scaling = {"stage": "scaling", "machine": MACHINE, "preset": "base", "records_per_step": 64, "workers": workers}
    write(tmp_path, "scaling.json", {**scaling, "device": "cuda", "ms_per_step": 90.0})
    write_page(str(tmp_path))
    text = (tmp_path / "benchmark.md").read_text()
    assert "**Not run**" not in text
    assert "preset base, one GPU each | 2 workers: 50 ms | one worker: 90 ms | 1.80 (1.70 to 1.90) |" in text


def test_the_memory_of_a_stage_where_it_was_watched(tmp_path: Path) -> None:
    write(tmp_path, "training.json", {**training(0.97), "peak_memory_bytes": 1_234_500_000})
    write(tmp_path, "earlier.json", training(0.97))
    write_page(str(tmp_path))
    text = (tmp_path / "benchmark.md").read_text()
    assert (
        text.count(
            "torch 2. Peak memory 1,234 MB, of the job and all its processes together, making its data included."
        )
        == 1
    )
    assert text.count("torch 2.\n") == 1


def test_what_is_no_result_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no result: measure some stages first"):
        write_page(str(tmp_path))
    earlier = {**training(0.97), "machine": {"cpus": 2}}
    for result in ({"a": 1}, earlier):
        write(tmp_path, "notes.json", result)
        with pytest.raises(ValueError, match=r"notes\.json is no result of --out"):
            write_page(str(tmp_path))


def test_the_job(tmp_path: Path) -> None:
    assert "--stage page needs --out" in job("benchmark", "--stage", "page", expect=2)
    assert "--pairs 5: an interval of 95 % needs at least 6" in job(
        "benchmark", "--stage", "loader", "--pairs", "5", expect=2
    )
    write(tmp_path, "training.json", training(0.97))
    assert f"page {tmp_path}/benchmark.md" in job("benchmark", "--stage", "page", "--out", str(tmp_path))
