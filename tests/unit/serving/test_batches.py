"""What waits while the model is busy is the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ecgmoe.serving.batches import Batches


class Model:
    """Doubles numbers, each batch when it is let go."""

    def __init__(self, most: int, wait_s: float = 0.0) -> None:
        self.seen: list[list[int]] = []
        self.go = asyncio.Event()
        self.batches: Batches[int, int] = Batches(self.work, most, wait_s)

    async def work(self, numbers: Sequence[int]) -> list[int]:
        self.seen.append(list(numbers))
        await self.go.wait()
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


def test_they_gather_while_the_model_is_busy() -> None:
    async def run() -> None:
        model = Model(4)
        calls = [asyncio.create_task(model.batches(number)) for number in range(10)]
        await asyncio.sleep(0.01)
        # Nobody waits for a free model.
        assert model.seen == [[0, 1, 2, 3]]
        late = asyncio.create_task(model.batches(100))
        model.go.set()
        assert await asyncio.gather(*calls, late) == [*range(0, 20, 2), 200]
        assert model.seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 100]]
        # And again, once it had nothing to do.
        assert await model.batches(7) == 14
        assert model.seen[-1] == [7]

    asyncio.run(run())


def test_one_alone_goes_at_once_unless_it_is_to_wait() -> None:
    async def run() -> None:
        for wait_s, expected in ((0.0, [[1], [2]]), (0.05, [[1, 2]])):
            model = Model(4, wait_s)
            model.go.set()
            first = asyncio.create_task(model.batches(1))
            await asyncio.sleep(0.01)
            assert await asyncio.gather(first, model.batches(2)) == [2, 4]
            assert model.seen == expected

    asyncio.run(run())


def test_a_failure_is_that_of_its_batch_alone() -> None:
    async def run() -> None:
        model = Model(2)
        model.go.set()
        found = await asyncio.gather(*(model.batches(each) for each in (1, 13, 2, 3)), return_exceptions=True)
        assert [str(each) for each in found] == ["13", "13", "4", "6"]
        assert await model.batches(5) == 10

    asyncio.run(run())


def test_who_goes_away_is_not_computed_and_stops_nobody() -> None:
    async def run() -> None:
        model = Model(2)
        calls = [asyncio.create_task(model.batches(number)) for number in range(6)]
        await asyncio.sleep(0.01)
        # One of the batch that is computed, and all of the next.
        for gone in (0, 2, 3):
            calls[gone].cancel()
        await asyncio.sleep(0.01)
        model.go.set()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [each for each in found if not isinstance(each, asyncio.CancelledError)] == [2, 8, 10]
        assert model.seen == [[0, 1], [4, 5]]
        with pytest.raises(asyncio.CancelledError):
            calls[2].result()

    asyncio.run(run())
