"""The web application: requests in, answers out. It knows no Ray: the model is whatever `ModelHandle` it is given."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from ecgmoe.ecg.paper import ecg_svg
from ecgmoe.ecg.quality_policy import QualityFault
from ecgmoe.ecg.read import UsableRecord, usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault
from ecgmoe.filesystem import StorageError
from ecgmoe.serving.answers import Answer
from ecgmoe.serving.body import Room, declared_bytes, read_body
from ecgmoe.serving.config import ServingConfig
from ecgmoe.serving.guard import PAGE, Guard
from ecgmoe.serving.metrics import Metrics
from ecgmoe.serving.refusal import Refusal, refused
from ecgmoe.serving.upload import check_kind, uploaded_record

HEALTH_S = 5.0
_READERS = 2
"""Threads that read records: more than one, so that a large request holds up nobody, and few, because they share one GIL."""

T = TypeVar("T")


class ModelHandle(Protocol):
    """A model in another process, or in this one."""

    async def predict(self, record: UsableRecord) -> Answer:
        """Predict a record; a `Refusal` where no model answers."""
        ...

    async def about(self) -> dict[str, Any]:
        """What it says of itself; a `Refusal` where no model answers."""
        ...


def web_application(config: ServingConfig, model: ModelHandle, token: str | None, ingress: str = "") -> Guard:
    """The ASGI application.

    Args:
        config: limits, names and quality policy.
        model: that predicts.
        token: that clients must show; None for everybody.
        ingress: name of this process in the metrics.
    """
    # It writes the names of files into the log, where that is set to DEBUG.
    logging.getLogger("fsspec").setLevel(logging.INFO)
    metrics = Metrics(ingress)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    reception = _Reception(config, metrics)
    _add_page(app)
    _add_state(app, model, metrics)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        async with reception.record(request) as record:
            answer = await model.predict(record)
        if answer.first:
            metrics.batch(answer.batch)
        if answer.prediction is None:
            raise Refusal(500, "the model failed on this record")
        return JSONResponse(answer.prediction)

    @app.post("/draw")
    async def draw(request: Request) -> Response:
        async with reception.record(request) as record:
            return Response(await reception.draw(record), media_type="image/svg+xml")

    @app.exception_handler(Refusal)
    async def on_refusal(request: Request, refusal: Refusal) -> Response:
        return refused(refusal)

    @app.exception_handler(HTTPException)
    async def on_path(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": f"{error.detail}: SERVING.md names the paths"}, error.status_code, error.headers)

    return Guard(app, token, config.hosts, metrics)


def _add_page(app: FastAPI) -> None:
    def page_file(name: str, kind: str) -> Callable[[], Any]:
        content = files("ecgmoe.serving").joinpath("page", name).read_bytes()

        async def answer() -> Response:
            return Response(content, media_type=kind)

        return answer

    for path, (name, kind) in PAGE.items():
        app.get(path)(page_file(name, kind))


def _add_state(app: FastAPI, model: ModelHandle, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        try:
            async with asyncio.timeout(HEALTH_S):
                metrics.model((await model.about())["model_version"])
        except TimeoutError as error:
            raise Refusal(503, f"the model did not answer within {HEALTH_S:g} s") from error
        return JSONResponse({"status": "ok"})

    @app.get("/model")
    async def about() -> Response:
        return JSONResponse(await model.about())

    @app.get("/metrics")
    async def figures() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


class _Reception:
    """From a request to a usable record, on threads, within bounds."""

    def __init__(self, config: ServingConfig, metrics: Metrics) -> None:
        self.config = config
        self.room = Room(config.max_queue)
        metrics.inside.set_function(lambda: self.room.inside)
        self.readers = ThreadPoolExecutor(_READERS, "reader")
        # matplotlib does not promise that two of its figures can be drawn at once.
        self.drawer = ThreadPoolExecutor(1, "drawer")

    @asynccontextmanager
    async def record(self, request: Request) -> AsyncIterator[UsableRecord]:
        """The record of a request, which keeps its place until its answer is there."""
        headers, limit = request.headers, self.config.max_body_bytes
        check_kind(headers.get("content-type"), headers.get("content-encoding"))
        length = declared_bytes(request, limit)
        with self.room.place(limit if length is None else length):
            body = await read_body(request, limit)
            yield await _on(self.readers, lambda: self._read(headers["content-type"], body))

    async def draw(self, record: UsableRecord) -> bytes:
        return await _on(self.drawer, lambda: ecg_svg(record.signal, record.r_peaks.tolist()))

    def _read(self, content_type: str, body: bytes) -> UsableRecord:
        options = ReaderOptions(pad_short=self.config.pad_short)
        try:
            return usable(
                uploaded_record(content_type, body, pad_short=options.pad_short), options, self.config.quality
            )
        except QualityFault as fault:
            raise Refusal(422, f"the record is excluded by the quality policy: {fault}") from fault
        except RecordFault as fault:
            raise Refusal(422, f"the record cannot be used: {fault}") from fault
        except StorageError as error:
            raise Refusal(503, "the server cannot write its temporary folder: tell who runs it") from error


async def _on(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
