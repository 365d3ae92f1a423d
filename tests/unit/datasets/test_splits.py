"""Splits by patient."""

from __future__ import annotations

import numpy as np
import pytest

from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.splits import assign_splits

SHARES = (0.8, 0.1, 0.1)


def test_a_patient_is_on_one_side_and_shares_are_kept() -> None:
    patients = np.repeat(np.arange(20_000), 3)
    splits = assign_splits(patients, 0, SHARES)
    assert np.all(splits.reshape(-1, 3) == splits.reshape(-1, 3)[:, :1])
    for name, share in zip(("train", "validation", "test"), SHARES, strict=True):
        assert np.mean(splits == name) == pytest.approx(share, abs=0.01)  # 3.5 standard errors


def test_records_added_later_move_nobody() -> None:
    few, many = np.arange(0, 1000, 7), np.arange(1000)
    assert assign_splits(few, 0, SHARES).tolist() == assign_splits(many, 0, SHARES)[::7].tolist()


def test_the_seed_decides_and_the_order_does_not() -> None:
    patients = np.arange(500)
    splits = assign_splits(patients, 0, SHARES)
    assert assign_splits(patients[::-1], 0, SHARES)[::-1].tolist() == splits.tolist()
    assert assign_splits(patients, 1, SHARES).tolist() != splits.tolist()


def test_these_splits_never_change() -> None:
    # A new hash would move patients of existing models from the test to the training split.
    expected = [
        "train",
        "train",
        "train",
        "validation",
        "train",
        "train",
        "train",
        "train",
        "validation",
        "test",
        "train",
        "train",
        "test",
        "test",
        "train",
        "train",
    ]
    assert assign_splits(np.arange(10_000_032, 10_000_048), 0, SHARES).tolist() == expected


def test_a_share_may_be_zero() -> None:
    assert set(assign_splits(np.arange(500), 0, (0.9, 0.1, 0.0))) == {"train", "validation"}
    assert set(assign_splits(np.arange(500), 0, (1.0, 0.0, 0.0))) == {"train"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_shares": (0.8, 0.1, 0.2)}, "split_shares"),
        ({"split_shares": (0.0, 0.5, 0.5)}, "split_shares"),
        ({"split_shares": (1.2, -0.1, -0.1)}, "split_shares"),
        ({"potassium_window_minutes": 0.0}, "potassium_window_minutes"),
        ({"potassium_window_minutes": float("nan")}, "potassium_window_minutes"),
        ({"sampling_rate": 250}, "sampling_rate must be 100 or 500"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndexOptions(**options)  # type: ignore[arg-type]
