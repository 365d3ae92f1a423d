"""Traffic on paper: sums by hand, and what a model really has to move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ecgmoe.benchmark.page import rows_of
from ecgmoe.benchmark.traffic import (
    ALL_GATHER,
    ALL_REDUCE,
    REDUCE_SCATTER,
    Moved,
    Travels,
    markdown,
    plan,
    sent,
    traffic_benchmark,
    travels_of,
    without_weights,
)
from ecgmoe.benchmark.traffic_count import example
from ecgmoe.config import PRESETS
from ecgmoe.pipeline.schema import SIGNAL_BYTES
from ecgmoe.training.memory import LIVE_ELEMENTS

TRAVELS = Travels(
    groups=((20_000, 30), (5,)),
    unused=0,
    read=(20_000, 15_001, 30, 5),
    small=(30, 5),
    width=16,
    experts=4,
    losses=7,
    record_bytes=SIGNAL_BYTES,
)


def payloads(stage: int, workers: int, travels: Travels = TRAVELS) -> dict[str, tuple[str, int]]:
    return {each.what: (each.kind, each.payload) for each in plan(stage, travels, workers, records=8)}


def test_each_stage_by_hand() -> None:
    own = {
        "contrastive term": (ALL_GATHER, 2 * 4 * 8 * 16 * 4),
        "contrastive term, backward": (ALL_REDUCE, 2 * 4 * 8 * 16 * 4),
        "balance of experts": (ALL_GATHER, 4 * 4 * 8),
        "balance of experts, backward": (ALL_REDUCE, 4 * 4 * 8),
        "agreement": (ALL_REDUCE, 9 * 4),
    }
    assert payloads(0, 4) == own | {"gradients": (ALL_REDUCE, 4 * 20_035), "gradient norm": (ALL_REDUCE, 4)}
    # Groups of 20,030 and 5 are padded to multiples of 8.
    sharded = own | {
        "gradients": (ALL_REDUCE, 4 * 20_035),
        "weights": (ALL_GATHER, 4 * (20_032 + 8)),
        "gradient norm": (ALL_REDUCE, 8),
    }
    assert payloads(1, 4) == payloads(2, 4) == sharded
    # Each parameter is padded to a multiple of 4.
    assert payloads(3, 4) == own | {
        "weights": (ALL_GATHER, 4 * (20_000 + 15_004)),
        "small weights": (ALL_GATHER, 4 * (32 + 8)),
        "gradients": (REDUCE_SCATTER, 4 * (20_000 + 32 + 8)),
        "gradient norm": (ALL_REDUCE, 16),
    }


def test_what_is_sent_on_a_ring() -> None:
    gather, reduce = (Moved(what="", kind=kind, payload=1024) for kind in (ALL_GATHER, ALL_REDUCE))
    assert [sent(gather, workers) for workers in (1, 2, 4, 256)] == [0, 512, 768, 1020]
    assert [sent(reduce, workers) for workers in (1, 2, 4, 256)] == [0, 1024, 1536, 2040]


def test_the_plan_at_its_ends() -> None:
    assert all(plan(stage, TRAVELS, 1, 8) == [] for stage in range(4))
    large = replace(TRAVELS, read=(LIVE_ELEMENTS, 20_000))
    assert payloads(3, 2, large)["weights"] == (ALL_GATHER, 4 * 2 * (LIVE_ELEMENTS + 20_000))
    assert "contrastive term" not in payloads(0, 2, replace(TRAVELS, width=0))
    with pytest.raises(ValueError, match="stage must be one of 0, 1, 2, 3, got 4"):
        plan(4, TRAVELS, 2, 8)


def test_what_travels_of_a_model() -> None:
    travels = travels_of(example())
    assert travels.unused == 0
    assert travels.width == 32
    # Five tasks, the contrastive and the balance term.
    assert travels.losses == 7
    assert travels.record_bytes == SIGNAL_BYTES
    # What is frozen is read, and does not train.
    assert sum(travels.read) > travels.trained
    with pytest.raises(ValueError, match="set accumulation to 1"):
        config = example()
        traffic_benchmark(replace(config, training=replace(config.training, accumulation=2)), preset="")


def test_features_of_cached_backbones_are_read() -> None:
    config = PRESETS["tiny"]()
    stored = travels_of(config).record_bytes - SIGNAL_BYTES
    widths = {"moment": 64, "tempo": 32, "ecgfm": 48}
    assert stored % 2 == 0
    assert stored > 2 * sum(widths.values())


def test_presets_are_planned_without_a_download() -> None:
    for preset in ("base", "large"):
        backbones = without_weights(PRESETS[preset]()).backbones
        assert all(each.weights is None for each in backbones)
        moment = next(each for each in backbones if each.name == "moment")
        assert moment.size == preset


def test_the_table() -> None:
    text = markdown(
        {
            "preset": "tiny",
            "trained_parameters": 20_035,
            "records_per_worker": 8,
            "record_bytes": SIGNAL_BYTES,
            "stages": {"0": {"1": {"sent_bytes_per_record": 0}, "2": {"sent_bytes_per_record": 10_000}}},
            "counted": {"0": {"2": {"planned": {ALL_REDUCE: 84}, "counted": {ALL_REDUCE: 84, "broadcast": 8}}}},
        }
    )
    assert "| ZeRO | 1 GPUs | 2 GPUs |" in text
    assert "| 0 | 2 | all_reduce | 84 | 84 |" in text
    assert "| 0 | 2 | broadcast | 0 | 8 |" in text


def test_the_page_has_the_plan_beside_what_was_counted() -> None:
    each = {"planned_sent": 84.0, "counted_sent": 85.0}
    (row,) = rows_of({"stage": "traffic", "counted": {"3": {"2": each}}})
    assert (row.ours, row.beside) == ("85 bytes counted", "84 planned")
