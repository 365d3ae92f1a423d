"""The use of the experts is summed up as the predictions file says it, and drawn."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgmoe.evaluation.routing import distance, entropy, heat_maps, routing_summary

EXPERTS = ("morphology_3", "rhythm_1_2_4")


def predictions() -> pa.Table:
    gates = pa.list_(pa.float32())
    return pa.table(
        {
            "routing_sex": pa.array([[0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [0.5, 0.5]], gates),
            "routing_arrhythmia": pa.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5]], gates),
            "label_arrhythmia": pa.array(["sinus rhythm", "sinus rhythm", "atrial fibrillation", None]),
        }
    )


def test_entropy_is_1_for_an_even_load_and_0_for_one_expert() -> None:
    assert entropy(np.full(5, 0.2)) == pytest.approx(1)
    assert entropy(np.array([0.0, 1.0, 0.0])) == pytest.approx(0, abs=1e-6)
    assert entropy(np.array([0.5, 0.5, 0.0, 0.0])) == pytest.approx(0.5)


def test_distance_is_0_for_the_same_load_and_1_for_other_experts() -> None:
    assert distance(np.array([0.3, 0.7]), np.array([0.3, 0.7])) == 0
    assert distance(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1


def test_loads_by_task_and_by_labelled_class() -> None:
    summary = routing_summary(predictions(), EXPERTS)
    assert summary is not None
    assert summary["by_task"]["sex"] == {"morphology_3": 0.5, "rhythm_1_2_4": 0.5}
    assert summary["entropy"]["sex"] == pytest.approx(1)
    assert summary["distance"] == {"sex - arrhythmia": 0.0}
    assert summary["by_rhythm_class"] == {
        "atrial fibrillation": {"records": 1, "morphology_3": 1.0, "rhythm_1_2_4": 0.0},
        "sinus rhythm": {"records": 2, "morphology_3": 0.25, "rhythm_1_2_4": 0.75},
    }


def test_a_part_of_a_table_is_read_from_its_own_rows() -> None:
    summary = routing_summary(predictions().slice(2, 1), EXPERTS)
    assert summary is not None
    assert summary["by_task"]["arrhythmia"] == {"morphology_3": 1.0, "rhythm_1_2_4": 0.0}


def test_pictures_are_png_and_the_same_every_time() -> None:
    summary = routing_summary(predictions(), EXPERTS)
    assert summary is not None
    first, second = heat_maps(summary, "a run"), heat_maps(summary, "a run")
    assert set(first) == {"routing_by_task.png", "routing_by_rhythm_class.png"}
    assert first == second
    assert all(picture.startswith(b"\x89PNG") for picture in first.values())


def test_a_long_title_gets_lines_of_its_own() -> None:
    summary = routing_summary(predictions(), EXPERTS)
    assert summary is not None
    # Width and height stand big-endian after the signature and the name of the first chunk.
    short, long = (
        heat_maps(summary, title)["routing_by_task.png"][16:24] for title in ("a run", "a run\n" + "word " * 60)
    )
    assert long[:4] == short[:4]
    assert int.from_bytes(long[4:]) > int.from_bytes(short[4:])


def test_without_gates_there_is_no_summary() -> None:
    assert routing_summary(pa.table({"rr_ms": [800.0]}), EXPERTS) is None
