"""Who may call, under which name, from which page; every answer is counted and tells browsers what they may do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from ecgmoe.serving.guard import OPEN, PATHS, Guard
from ecgmoe.serving.metrics import Metrics
from serving_examples import SHOWN, TOKEN

ANSWERED = 200


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/broken":
        raise RuntimeError
    await PlainTextResponse("here")(scope, receive, send)


def guarded(token: str | None = TOKEN, hosts: tuple[str, ...] = ("testserver", "::1")) -> TestClient:
    return TestClient(Guard(app, token, hosts, Metrics("")), raise_server_exceptions=False)


def test_the_token_opens_every_path_and_some_are_open() -> None:
    web = guarded()
    for path in (*PATHS, "/elsewhere", "/health/", "/PREDICT"):
        assert web.get(path, headers=SHOWN).status_code == ANSWERED
        refused = web.get(path)
        assert refused.status_code == (ANSWERED if path in OPEN else 401), path
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "Bearer TOKEN" in refused.json()["error"]
    assert guarded(token=None).get("/predict").status_code == ANSWERED


@pytest.mark.parametrize("host", ["testserver", "TESTSERVER:8000", "[::1]:8000", "testserver:"])
def test_its_own_names(host: str) -> None:
    assert guarded().get("/", headers={"Host": host}).status_code == ANSWERED


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "[", "", "testserver.evil.example", "a@b", "[::2]"]
)
def test_other_names(host: str) -> None:
    answer = guarded().get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert answer.json() == {"error": "this server answers to the names ::1, testserver only"}
    assert guarded(hosts=()).get("/", headers={"Host": host}).status_code == ANSWERED


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://testserver:9999", "testserver", "http://testserver.evil.example"],
)
def test_pages_of_other_sites(origin: str) -> None:
    assert guarded().post("/predict", headers={**SHOWN, "Origin": origin}).status_code == 403


def test_its_own_page_also_behind_tls() -> None:
    for scheme in ("http", "https"):
        own = {**SHOWN, "Origin": f"{scheme}://testserver:8000", "Host": "testserver:8000"}
        assert guarded().post("/predict", headers=own).status_code == ANSWERED


def test_every_answer_tells_the_browser_what_it_may_do() -> None:
    web = guarded()
    for answer in (web.get("/"), web.get("/predict"), web.get("/", headers={"Host": "x"})):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_request_is_counted_without_what_clients_write() -> None:
    metrics = Metrics("one")
    web = TestClient(Guard(app, None, (), metrics), raise_server_exceptions=False)
    for path in ("/health", "/health", "/SMITH", "/broken"):
        web.get(path)
    text = metrics.text().decode()
    assert 'ecgmoe_requests_total{ingress="one",path="/health",status="200"} 2.0' in text
    assert 'ecgmoe_requests_total{ingress="one",path="other",status="200"} 1.0' in text
    assert 'ecgmoe_requests_total{ingress="one",path="other",status="500"} 1.0' in text
    assert 'ecgmoe_request_seconds_count{ingress="one",path="/health"} 2.0' in text
    assert "SMITH" not in text


def test_web_sockets_are_not_answered() -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError("called")

    asyncio.run(Guard(never, None, (), Metrics(""))({"type": "websocket", "path": "/"}, never, never))
