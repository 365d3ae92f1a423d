"""The order of study ids is that of a committed file, byte for byte, for any number of workers and across a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ecgmoe.pipeline.prepared import row_groups, split_rows
from ecgmoe.training.plan import EpochPlan, epoch_plan

GOLDEN = Path(__file__).with_name("golden_order.txt")
EPOCHS, GLOBAL_BATCH, SLOTS, SEED = 2, 8, 4, 5
SHARDS, ROWS = 7, 11


def labels() -> pa.Table:
    """Seven short shards, of which every fifth record does not train."""
    n = np.arange(SHARDS * ROWS)
    return pa.table(
        {
            "study_id": pa.array(40_000_000 + 7_919 * n),
            "shard": pa.array((n // ROWS).astype(np.int32)),
            "row": pa.array((n % ROWS).astype(np.int32)),
            "split": pa.array(["validation" if each % 5 == 3 else "train" for each in n]),
        }
    )


def plans() -> list[EpochPlan]:
    table = labels()
    rows = split_rows(table, "train")
    return [
        epoch_plan(rows, row_groups(table)[rows], global_batch=GLOBAL_BATCH, slots=SLOTS, seed=SEED, epoch=epoch)
        for epoch in range(EPOCHS)
    ]


def order(workers: int, start: tuple[int, int] = (0, 0)) -> str:
    """A line for each global batch from (epoch, batch) on: epoch, batch, study ids of the workers' shares end to end."""
    study_id = labels()["study_id"].to_numpy()
    lines = []
    for epoch, plan in enumerate(plans()):
        for batch in range(len(plan.rows)):
            if (epoch, batch) >= start:
                shares = [plan.batch(batch, workers).share(rank) for rank in range(workers)]
                lines.append(f"{epoch} {batch} {' '.join(map(str, study_id[np.concatenate(shares)]))}\n")
    return "".join(lines)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_order_is_the_committed_one(workers: int) -> None:
    assert order(workers).encode() == GOLDEN.read_bytes(), (
        "the order changed: a run can no longer be resumed across this"
    )


@pytest.mark.parametrize("start", [(0, 3), (1, 0), (1, 6)])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2), (2, 2)])
def test_the_order_goes_on_across_a_restart(before: int, after: int, start: tuple[int, int]) -> None:
    rest = order(after, start)
    done = order(before).removesuffix(rest)
    assert (done + rest).encode() == GOLDEN.read_bytes()
    assert rest.startswith(f"{start[0]} {start[1]} ")


def test_a_record_trains_at_most_once_an_epoch_and_the_rest_is_counted() -> None:
    train = {40_000_000 + 7_919 * int(row) for row in split_rows(labels(), "train")}
    for epoch, plan in enumerate(plans()):
        lines = [line.split() for line in GOLDEN.read_text().splitlines()]
        trained = [int(study) for number, _, *studies in lines if int(number) == epoch for study in studies]
        assert len(trained) == len(set(trained))
        assert set(trained) <= train
        assert plan.dropped == len(train) - len(trained) == 6
