"""What stands before every request: who may call, under which name, and what browsers may do with the answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ecgmoe.serving.metrics import Metrics
from ecgmoe.serving.refusal import Refusal, refused
from ecgmoe.serving.token import shows

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
OPEN = (*PAGE, "/health")
"""Paths without a token: nothing of a patient or of the model is there."""

PATHS = (*OPEN, "/predict", "/draw", "/model", "/metrics")

_HEADERS = {
    # Nothing but this server's own files; pictures come as blobs that the page made of them.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """An ASGI application behind a token.

    Args:
        app: that answers.
        token: that clients must show; None for everybody.
        hosts: names that "Host" may have; none of them allows all.
        metrics: count every request.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str], metrics: Metrics) -> None:
        self.app, self.token, self.metrics = app, token, metrics
        self.hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            # Serve's messages about start and end of the application; there are no web sockets.
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        path = scope["path"] if scope["path"] in PATHS else "other"
        try:
            try:
                self._check(path, Headers(scope=scope))
            except Refusal as refusal:
                await refused(refusal)(scope, receive, guarded)
                return
            await self.app(scope, receive, guarded)
        finally:
            self.metrics.answered(path, status, time.perf_counter() - started)

    def _check(self, path: str, headers: Headers) -> None:
        host = _name(headers.get("host", ""))
        # A page of elsewhere can give its own name the address 127.0.0.1, and would then be "here".
        if self.hosts and host not in self.hosts:
            raise Refusal(421, f"this server answers to the names {', '.join(sorted(self.hosts))} only")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise Refusal(403, "requests of other web sites are not answered")
        if self.token is not None and path not in OPEN and not shows(headers.get("authorization"), self.token):
            raise Refusal(401, "the token is missing or wrong: send it as Authorization: Bearer TOKEN")


def _name(host: str) -> str | None:
    """The name without its port; None where there is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
