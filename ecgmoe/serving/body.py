"""Reading a request without trusting its length: looked at before the first byte, and counted while bytes come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from ecgmoe.serving.refusal import Refusal

BODY_S = 30.0
"""A request that takes longer to arrive is given up."""

BODIES_BYTES = 256_000_000
"""Bodies of all requests that are inside together."""


def declared_bytes(request: Request, limit: int) -> int | None:
    """What the request says of its length, None where it does not.

    Raises:
        Refusal: it is too long, or no number.
    """
    length = request.headers.get("content-length")
    if length is None:
        return None
    if not (length.isascii() and length.isdecimal()):
        raise Refusal(400, "Content-Length is no number of bytes")
    # Python refuses to read a number of more than 4,300 digits.
    if len(length) > 15 or int(length) > limit:
        raise Refusal(413, f"the request announces more than {limit:,} bytes: send one ECG of at most a minute")
    return int(length)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        Refusal: it is longer than `limit`, whatever it announced, or it takes too long to arrive.
    """
    declared_bytes(request, limit)
    chunks: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                total += len(chunk)
                if total > limit:
                    raise Refusal(413, f"the request is longer than {limit:,} bytes: send one ECG of at most a minute")
                chunks.append(chunk)
    except TimeoutError as error:
        raise Refusal(408, f"the request did not arrive within {BODY_S:g} s: send it again") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the client left before the request had arrived") from error
    return b"".join(chunks)


class Room:
    """What may be inside at the same time; who comes beyond is sent away at once, so that memory stays bounded.

    Args:
        requests: number of them.
        body_bytes: of all their bodies.
    """

    def __init__(self, requests: int, body_bytes: int = BODIES_BYTES) -> None:
        self.requests, self.body_bytes = requests, body_bytes
        self.inside = self.bytes_inside = 0

    @contextmanager
    def place(self, body_bytes: int) -> Iterator[None]:
        """Room for a request.

        Raises:
            Refusal: there is none.
        """
        if self.inside >= self.requests:
            raise Refusal(503, f"the queue is full ({self.requests} requests): send it again after a second")
        if self.inside and self.bytes_inside + body_bytes > self.body_bytes:
            raise Refusal(503, "the requests inside are too large for one more: send it again after a second")
        self.inside += 1
        self.bytes_inside += body_bytes
        try:
            yield
        finally:
            self.inside -= 1
            self.bytes_inside -= body_bytes
