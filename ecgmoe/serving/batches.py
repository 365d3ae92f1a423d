"""Records that wait while the model is busy are its next batch.

Ray's `serve.batch` closes a batch as soon as one record is there and no time is to be waited, and lets batches of one queue
for the model: on a busy server nothing would gather. Here a batch is closed when the model is free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches(Generic[Item, Result]):
    """Calls a function of several items with all that wait, one call at a time.

    Args:
        work: gives a result for each item, in their order.
        most: items of a call at most.
        wait_s: so long the first item waits for others where fewer are there.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], most: int, wait_s: float) -> None:
        self._work, self._most, self._wait_s = work, most, wait_s
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """The result of one item; an exception of the call that it was in."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work_off())
        return await future

    async def _work_off(self) -> None:
        while self._waiting:
            if self._wait_s and len(self._waiting) < self._most:
                await asyncio.sleep(self._wait_s)
            batch = self._next()
            if not batch:
                continue
            try:
                results = await self._work([item for item, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        self._working = None

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """What goes into the next call; who went away meanwhile is left out."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._most:
            item, future = self._waiting.popleft()
            if not future.cancelled():
                batch.append((item, future))
        return batch
