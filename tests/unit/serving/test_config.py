"""What a server may be told, by options and by a config file of Serve."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ecgmoe.config_tools import from_dict
from ecgmoe.serving.config import ServingConfig
from jobs_here import job_here, last_line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", 0),
        ("max_queue", 0),
        ("replicas", 0),
        ("ingress_replicas", 0),
        ("batch_wait_ms", -1.0),
        ("batch_wait_ms", float("nan")),
        ("batch_wait_ms", 1e6),
        ("max_body_mb", 0.0),
        ("max_body_mb", 257.0),
        ("max_body_mb", float("nan")),
        ("num_gpus", -1.0),
    ],
)
def test_values_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ServingConfig(model="x", **{name: value})


def test_a_config_file_of_serve() -> None:
    config = from_dict(ServingConfig, {"model": "x", "max_body_mb": 2, "quality": {"noise": "mask"}, "hosts": ["a"]})
    assert config.max_body_bytes == 2_000_000
    assert config.quality.noise == "mask"
    assert config.hosts == ("a",)
    with pytest.raises(ValueError, match="max_btach"):
        from_dict(ServingConfig, {"model": "x", "max_btach": 2})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--model", "nowhere"], "nowhere is not a model folder"),
        (["--model", "x", "--host", "0.0.0.0", "--token-file", "none"], "it is taken with --host 127.0.0.1 only"),
    ],
)
def test_the_job_says_what_is_wrong_in_a_line(options: list[str], reason: str) -> None:
    said = last_line(job_here("serve", *options, expect=2))
    assert said.startswith("error: ")
    assert reason in said


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run", "app", "web", "upload"):
        monkeypatch.delitem(sys.modules, f"ecgmoe.serving.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "python_multipart.exceptions", None)
    said = last_line(job_here("serve", "--model", "x", expect=2))
    assert said == "error: serving needs the package python_multipart.exceptions: pip install 'ecgmoe[serve]'"
