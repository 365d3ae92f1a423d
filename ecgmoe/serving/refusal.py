"""A request that is not answered with predictions: a status, and a reason that says what to do."""

from __future__ import annotations

from starlette.responses import JSONResponse


class Refusal(Exception):
    """Why a request is refused.

    Attributes:
        status: of HTTP, 4xx for what the client can mend, 503 for what passes by itself.
        reason: what is wrong and what to do; it goes to the client alone, and to no log.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def refused(refusal: Refusal) -> JSONResponse:
    """The answer to a refused request."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(refusal.status)
    return JSONResponse({"error": refusal.reason}, refusal.status, headers)
