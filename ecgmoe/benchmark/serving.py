"""A server under load on this machine: good and bad requests mixed, at several numbers of clients."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from ecgmoe.benchmark.serving_requests import GOOD, Sent, bad_requests, good_requests
from ecgmoe.serving.config import LOOPBACK, ServingConfig
from ecgmoe.serving.run import served
from ecgmoe.serving.token import read_token

HOST, PORT = LOOPBACK[0], 8199
URL = f"http://{HOST}:{PORT}"
LEAVING, STALLED = 40, 8
"""Clients beside the last round that go away in the middle of a body, and that stop sending."""

_RECORDS = 32
_ANSWER_S = 60.0
"""What takes longer counts as not answered."""

_PROCESS = re.compile(r"ray::(?:ServeReplica:\w+:)?(Ingress|Model|ProxyActor|ServeController)")


def serving_benchmark(model: str, root: Path, *, good: int, clients: Sequence[int] = (1, 4, 16, 64)) -> dict[str, Any]:
    """A round for each number of clients: so many good requests, and half as many bad ones, on a server of its own.

    Args:
        model: model folder.
        root: folder of WFDB records; the first usable ones are sent, as JSON and as files.
        good: good requests of a round.
        clients: at the same time. They run in this process and share the machine with the server.

    Returns:
        By round: milliseconds of good and of bad requests, good answers per second, records per pass of the model, the
        longest answer of /health meanwhile, and how often each kind of bad request got which status. 0 stands for no
        answer, or one without a reason. And memory of the server's processes before the first and after each round.
    """
    config = ServingConfig(model=model)
    records = good_requests(root, 2 * _RECORDS)
    bad = bad_requests(records[0], records[1], config.max_body_bytes)
    sent = [records[each % len(records)] for each in range(good)] + [bad[each % len(bad)] for each in range(good // 2)]
    # An order that is always the same.
    mixed = [sent[each] for each in np.random.default_rng(0).permutation(len(sent))]
    with served(config, HOST, PORT) as token_file:
        head = {"Authorization": f"Bearer {read_token(str(token_file))}"}
        asyncio.run(_round(head, records[:16], 2))
        result: dict[str, Any] = {"good": good, "bad": good // 2, "memory_mb": memory_mb(), "rounds": []}
        for number in clients:
            one = asyncio.run(_round(head, mixed, number, broken=number == clients[-1]))
            result["rounds"].append({"clients": number, **one, "memory_mb": memory_mb()})
    return result


def memory_mb() -> dict[str, dict[str, float]]:
    """Of the server's processes: resident, and what of it is theirs alone, without the object store that all of them map."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            named, held = _PROCESS.match(" ".join(process.cmdline())), process.memory_info()
            if named:
                found[named[1]].update({"resident": held.rss, "own": held.rss - held.shared})
    return {name: {kind: round(size / 1e6, 1) for kind, size in each.items()} for name, each in sorted(found.items())}


async def _round(head: dict[str, str], sent: Sequence[Sent], clients: int, *, broken: bool = False) -> dict[str, Any]:
    waiting = iter(sent)
    answers: dict[str, list[tuple[int, float]]] = defaultdict(list)
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=_ANSWER_S)
    async with aiohttp.ClientSession(URL, headers=head, connector=connector, timeout=timeout) as session:
        before = await _batches(session)
        aside = [_broken(head, sent[0], stays=each < STALLED) for each in range(STALLED + LEAVING) if broken]
        breaking = asyncio.gather(*aside)
        health: list[float] = []
        asking = asyncio.ensure_future(_ask_health(session, health))
        started = time.perf_counter()
        await asyncio.gather(*(_client(session, waiting, answers) for _ in range(clients)))
        seconds = time.perf_counter() - started
        asking.cancel()
        after = await _batches(session)
        left = Counter(await breaking)
    good = [took for status, took in answers[GOOD] if status == 200]
    return {
        "good_status": _statuses(answers.pop(GOOD)),
        "good_ms": _quantiles(good),
        "good_per_second": round(len(good) / seconds, 1),
        "records_per_pass": round((after[0] - before[0]) / (after[1] - before[1]), 2),
        "bad_status": {kind: _statuses(each) for kind, each in sorted(answers.items())},
        "bad_ms": _quantiles([took for each in answers.values() for _, took in each]),
        "health_longest_ms": round(max(health, default=0), 1),
        "broken_off_status": dict(left),
    }


async def _client(
    session: aiohttp.ClientSession, waiting: Iterator[Sent], answers: dict[str, list[tuple[int, float]]]
) -> None:
    for each in waiting:
        head = {"Content-Type": each.content_type}
        if each.announced is not None:
            # The server would take what follows on the same connection for the rest of this body.
            head |= {"Content-Length": str(each.announced), "Connection": "close"}
        status, started = 0, time.perf_counter()
        with suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with session.post("/predict", data=each.body, headers=head) as response:
                if ("tasks" if response.status == 200 else "error") in await response.json():
                    status = response.status
        answers[each.kind].append((status, 1000 * (time.perf_counter() - started)))


async def _broken(head: dict[str, str], good: Sent, *, stays: bool) -> int:
    """Send half a body, then leave, or stay and wait; the status that came, 0 without one."""
    reader, writer = await asyncio.open_connection(HOST, PORT)
    lines = {**head, "Host": HOST, "Content-Type": good.content_type, "Content-Length": str(len(good.body))}
    writer.write(b"POST /predict HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()).encode() + b"\r\n")
    writer.write(good.body[: len(good.body) // 2])
    await writer.drain()
    first = await reader.readline() if stays else b""
    writer.close()
    return int(first.split()[1]) if first else 0


async def _ask_health(session: aiohttp.ClientSession, took: list[float]) -> None:
    while True:
        started = time.perf_counter()
        async with session.get("/health") as response:
            response.raise_for_status()
        took.append(1000 * (time.perf_counter() - started))
        await asyncio.sleep(0.5)


async def _batches(session: aiohttp.ClientSession) -> tuple[float, float]:
    """Records and passes so far."""
    async with session.get("/metrics") as response:
        text = await response.text()
    found = dict(re.findall(r"^ecgmoe_batch_size_(sum|count)\{.*\} (\S+)$", text, re.MULTILINE))
    return float(found["sum"]), float(found["count"])


def _statuses(answers: Sequence[tuple[int, float]]) -> dict[str, int]:
    return dict(Counter(str(status) for status, _ in answers))


def _quantiles(took: Sequence[float]) -> dict[str, float]:
    return {f"p{each}": round(float(np.percentile(took, each)), 1) for each in (50, 99)} if took else {}
