"""What a pass costs is compared with the first point of its sweep."""

from __future__ import annotations

from dataclasses import replace

import torch

from ecgmoe.benchmark.costs import (
    Point,
    costs_benchmark,
    forward_pass,
    with_backbones,
    with_beats,
    with_leads,
    with_tasks,
)
from ecgmoe.benchmark.inference import fresh_model
from ecgmoe.benchmark.page import rows_of
from ecgmoe.config import tiny
from ecgmoe.ecg.record import MISSING
from tuning_examples import small


def test_every_sweep_stands_beside_its_first_point_and_a_linear_cost() -> None:
    config = replace(small(), tasks=("rr", "age"))
    found = costs_benchmark(config, pairs=6, records=2, batches=(1, 4), beats=(5, 20), leads=(1, 12))
    linear = {name: [point["linear"] for point in points.values()] for name, points in found["sweeps"].items()}
    assert linear == {
        "records": [1, 4],
        "beats": [1, 4, 2.5],
        "leads": [1, 12],
        "tasks": [1, 2],
        "backbones": [n + 1 for n in range(len(config.backbones))],
    }
    for points in found["sweeps"].values():
        first = next(iter(points.values()))
        for kind in ("forward", "training"):
            assert first[kind]["times_first"]["ratios"] == (1.0,) * 6
            assert all(point[kind]["ms"] > 0 for point in points.values())
    assert found["markdown"].count("\n") == 1 + sum(map(len, found["sweeps"].values()))
    rows = rows_of({"stage": "costs", **found})
    assert [row.what for row in rows][:4:2] == ["forward: 4 records against 1", "forward: 20 beats against 5"]
    assert all(row.ratio is not None and row.aim is None for row in rows)


def test_batches_hold_what_they_say() -> None:
    peaks = with_beats([3, 20]).r_peaks
    assert (peaks >= 0).sum(1).tolist() == [3, 20]
    assert bool((peaks[1].diff() > 0).all())
    assert (with_leads(2, 3).signal == MISSING).all(2).sum(1).tolist() == [9, 9]


def test_fewer_tasks_and_backbones_of_the_preset_are_a_model() -> None:
    config = tiny()
    for count in (1, 5, 6):
        fewer = with_backbones(with_tasks(config, 2), count)
        assert len(fewer.backbones) == count
        assert fewer.model.late_backbones == (config.model.late_backbones if count == 6 else ())
    model = fresh_model(with_backbones(with_tasks(config, 2), 1))
    assert [task.name for task in model.tasks] == list(config.tasks[:2])
    assert list(model.backbones) == ["timesnet"]


def test_the_forward_pass_makes_predictions() -> None:
    found = forward_pass(Point(name="", amount=1, config=small(), batch=with_beats([5, 9])))()
    assert isinstance(found, dict)
    assert all(torch.isfinite(value).all() for value in found.values())
