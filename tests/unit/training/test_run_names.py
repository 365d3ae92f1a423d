"""A run name stands for one configuration and one dataset."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from ecgmoe.config import tiny
from ecgmoe.config_tools import to_dict
from ecgmoe.pipeline.store import Store
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.identity import LAYOUT, check_name, refuse_other_run

IDENTITY = {
    "config": to_dict(tiny()),
    "data": {"folder": "/data/a", "labels_sha256": "1"},
    "features": {"moment": "moment-1"},
}


def test_the_same_run_goes_on(tmp_path: Path) -> None:
    run = Store(tmp_path)
    refuse_other_run(run, IDENTITY)
    run.write_json("config.json", {**IDENTITY, "code": {"revision": "abc"}})
    # Another code revision may go on with a run; another configuration may not.
    refuse_other_run(run, IDENTITY)


def test_a_run_that_is_older_than_an_option_goes_on(tmp_path: Path) -> None:
    run = Store(tmp_path)
    stored = {**IDENTITY, "config": to_dict(tiny())}
    del stored["config"]["training"]["epsilon"]
    run.write_json("config.json", stored)
    assert refuse_other_run(run, IDENTITY) == []
    changed = replace(tiny(), training=replace(tiny().training, epsilon=1e-6))
    with pytest.raises(ValueError, match=r"config.training.epsilon: 1e-08 -> 1e-06"):
        refuse_other_run(run, {**IDENTITY, "config": to_dict(changed)})


def test_another_configuration_or_dataset_is_refused_with_the_keys(tmp_path: Path) -> None:
    run = Store(tmp_path)
    run.write_json("config.json", {**IDENTITY, "code": {"revision": "abc"}})
    other = {
        "config": to_dict(replace(tiny(), model=replace(tiny().model, width=64))),
        "data": {"folder": "/data/b", "labels_sha256": "2"},
        "features": {},
    }
    with pytest.raises(ValueError) as refused:
        refuse_other_run(run, other)
    for line in (
        "config.model.width: 48 -> 64",
        'data.folder: "/data/a" -> "/data/b"',
        'features.moment: "moment-1" -> null',
        "choose another --run",
    ):
        assert line in str(refused.value)


def test_a_layout_may_change_and_is_told(tmp_path: Path) -> None:
    run = Store(tmp_path)
    before = {**IDENTITY, "config": to_dict(tiny())}
    run.write_json("config.json", {**before, "code": {"revision": "abc"}})
    training = replace(tiny().training, num_workers=1, zero_stage=3, log_every=7)
    after = {**IDENTITY, "config": to_dict(replace(tiny(), training=training))}
    assert set(LAYOUT) <= {field.name for field in fields(TrainingConfig)}
    assert refuse_other_run(run, before) == []
    assert refuse_other_run(run, after) == [
        "config.training.log_every: 20 -> 7",
        "config.training.num_workers: 2 -> 1",
        "config.training.zero_stage: 1 -> 3",
    ]
    # What changes the mathematics is refused, and named alone.
    for option in ({"global_batch": 64}, {"slots": 16}, {"seed": 1}, {"epochs": 99}, {"precision": "bf16"}):
        other = {**IDENTITY, "config": to_dict(replace(tiny(), training=replace(training, **option)))}
        with pytest.raises(
            ValueError, match=rf"configuration \(config.training.{next(iter(option))}: \S+ -> \S+\): choose"
        ):
            refuse_other_run(run, other)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 101, "a b"])
def test_names_that_are_not_one_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="run name"):
        check_name(name)
