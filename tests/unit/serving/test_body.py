"""A body is refused by what it announces, by what comes and by how long that takes; room is given back whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from ecgmoe.serving import body
from ecgmoe.serving.body import Room, declared_bytes, read_body
from ecgmoe.serving.refusal import Refusal


def request(*messages: dict[str, Any], length: str | None = None, then_wait: float = 0.0) -> Request:
    headers = [] if length is None else [(b"content-length", length.encode("latin-1"))]
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        try:
            return next(coming)
        except StopIteration:
            assert then_wait, "more was read than there was"
            await asyncio.sleep(then_wait)
            raise

    return Request({"type": "http", "method": "POST", "path": "/predict", "headers": headers}, receive)


def part(content: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


def read(given: Request, limit: int = 10) -> bytes:
    return asyncio.run(read_body(given, limit))


def status(given: Request, limit: int = 10) -> int:
    with pytest.raises(Refusal) as refusal:
        read(given, limit)
    return refusal.value.status


def test_a_body_in_parts() -> None:
    assert read(request(part(b"1234"), part(b"567890", more=False))) == b"1234567890"
    assert read(request(part(b"", more=False), length="0")) == b""


@pytest.mark.parametrize(
    ("length", "expected"), [("11", 413), ("1000000000", 413), ("9" * 5000, 413), ("-1", 400), ("1e1", 400), ("²", 400)]
)
def test_nothing_is_read_of_what_announces_too_much(length: str, expected: int) -> None:
    assert status(request(length=length)) == expected


def test_what_comes_is_counted_whatever_was_announced() -> None:
    for length in (None, "3"):
        assert status(request(part(b"12345678"), part(b"901"), length=length)) == 413
    assert declared_bytes(request(), 10) is None
    assert declared_bytes(request(length="10"), 10) == 10


def test_a_client_that_leaves() -> None:
    assert status(request(part(b"1"), {"type": "http.disconnect"})) == 400


def test_a_client_that_stops_sending_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_S", 0.05)
    assert status(request(part(b"1"), then_wait=5)) == 408


def test_room_for_so_many_requests() -> None:
    room = Room(2)
    with room.place(0), room.place(0):
        assert room.inside == 2
        with pytest.raises(Refusal, match="queue is full") as refusal, room.place(0):
            pass
        assert refusal.value.status == 503
    with room.place(0):
        assert room.inside == 1


def test_room_for_so_many_bytes() -> None:
    room = Room(10, body_bytes=100)
    with room.place(60):
        with pytest.raises(Refusal, match="too large for one more"), room.place(41):
            pass
        with room.place(40):
            assert room.bytes_inside == 100
    # A single one that is larger than all may be still comes in: else nobody could send it.
    with room.place(101):
        assert room.bytes_inside == 101


def test_room_is_given_back_when_a_request_fails() -> None:
    room = Room(1)
    with pytest.raises(RuntimeError), room.place(7):
        raise RuntimeError
    assert (room.inside, room.bytes_inside) == (0, 0)
