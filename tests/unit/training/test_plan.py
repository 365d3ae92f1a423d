"""The epoch plan is the only source of order: it must not know of workers, and must lose no record in silence."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ecgmoe.training.plan import EpochPlan, epoch_plan


def a_plan(records: int = 500, epoch: int = 0, seed: int = 7) -> EpochPlan:
    rows = np.arange(0, 2 * records, 2)
    return epoch_plan(rows, rows // 32, global_batch=32, slots=8, seed=seed, epoch=epoch)


def test_every_record_is_trained_once_and_the_tail_is_counted() -> None:
    plan = a_plan(500)
    used = plan.rows.ravel()
    assert len(np.unique(used)) == len(used) == 480
    assert plan.dropped == 500 - 480
    assert set(used) <= set(range(0, 1000, 2))


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 8])
def test_the_shares_of_the_workers_make_up_the_global_batch_in_order(workers: int) -> None:
    plan = a_plan()
    for batch in range(len(plan.rows)):
        whole = plan.batch(batch, workers)
        shares = [whole.share(rank) for rank in range(workers)]
        assert np.array_equal(np.concatenate(shares), plan.rows[batch].reshape(-1))
        # Eight slots of four records: after the loss of a node the workers left may have a slot more or less.
        assert [whole.first(rank) for rank in range(workers)] == [4 * (rank * 8 // workers) for rank in range(workers)]
        assert max(whole.counts) - min(whole.counts) in (0, 4)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert np.array_equal(a_plan().rows, a_plan().rows)
    assert not np.array_equal(a_plan(epoch=0).rows, a_plan(epoch=1).rows)
    assert not np.array_equal(a_plan(seed=7).rows, a_plan(seed=8).rows)


def test_the_order_is_the_one_that_earlier_versions_trained_in() -> None:
    digest = hashlib.sha256(np.ascontiguousarray(a_plan().rows, dtype="<i8").tobytes()).hexdigest()
    assert digest == GOLDEN_ORDER, "the order of records changed: a run can no longer be resumed across this version"


def test_a_slot_streams_through_row_groups() -> None:
    plan = a_plan(3200)
    groups = plan.rows // 32
    changes = (np.diff(groups.transpose(1, 0, 2).reshape(8, -1), axis=1) != 0).sum()
    # 200 row groups over 8 streams: each is entered once, and the 8 cuts enter at most 8 of them twice.
    assert changes <= 200 + 8


def test_records_of_a_batch_come_from_different_row_groups() -> None:
    plan = a_plan(3200)
    different = [len(np.unique(plan.rows[batch] // 32)) for batch in range(len(plan.rows))]
    assert min(different) >= 7


def test_too_few_records_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than one global batch of 32"):
        a_plan(31)


GOLDEN_ORDER = "8efcb438f9c4883ba5f283eea17d8d7d13cb18beb423cfdf3556665bd4718648"
