"""The web application over a model in this process: what it answers, what it refuses, who may ask."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

import ecgmoe
from ecgmoe.ecg.record import LEADS
from ecgmoe.serving.config import ServingConfig
from ecgmoe.serving.refusal import Refusal
from ecgmoe.serving.web import web_application
from predict_examples import calibrated_model
from serving_examples import SHOWN, TOKEN, Here, as_form, bad_requests, client, json_request, wfdb_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return calibrated_model(tmp_path_factory.mktemp("model") / "first" / "model")


@pytest.fixture(scope="module")
def web(folder: str) -> Iterator[TestClient]:
    with client(folder) as here:
        yield here


def numbers(answer: dict[str, Any]) -> dict[str, Any]:
    assert answer.pop("use") == "research use only: never a diagnosis"
    return answer


def test_a_file_and_an_array_get_the_numbers_of_predict(web: TestClient, folder: str, tmp_path: Path) -> None:
    files = wfdb_files(tmp_path)
    expected = ecgmoe.predict(tmp_path / "one", model=folder)
    as_json = json.loads(json.dumps(asdict(expected)))
    assert as_json["tasks"]["rr"]["interval"] is not None
    assert as_json["tasks"]["arrhythmia"]["class_set"] is not None
    assert numbers(web.post("/predict", files=as_form(files)).json()) == as_json
    assert numbers(web.post("/predict", json=json_request()).json()) == as_json
    turned = json_request(leads=list(LEADS[::-1]), signal=(json_request()["signal"][::-1]), unit=None)
    assert numbers(web.post("/predict", json=turned).json()) == as_json


def test_every_bad_request_is_a_4xx_with_a_reason(web: TestClient, tmp_path: Path) -> None:
    for path in ("/predict", "/draw"):
        for name, (status, request) in bad_requests(tmp_path).items():
            answer = web.post(path, **request)
            assert answer.status_code == status, (path, name, answer.text)
            assert set(answer.json()) == {"error"}, name
            assert 15 < len(answer.json()["error"]) < 1500, name
    assert web.post("/predict", json=json_request()).status_code == 200


def test_short_records_are_padded_where_the_server_says_so(folder: str) -> None:
    short = json_request(signal=[row[:4000] for row in json_request()["signal"]])
    with client(folder, pad_short=True) as web:
        assert web.post("/predict", json=short).json()["quality"]["padded_samples"] == 1000


def test_a_body_is_refused_by_what_it_announces_and_by_what_comes(folder: str) -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b" " * 10_000

    with client(folder, max_body_mb=0.1) as web:
        head = {"Content-Type": "application/json"}
        assert web.post("/predict", content=b" " * 100_001, headers=head).status_code == 413
        assert web.post("/predict", content=chunks(), headers=head).status_code == 413
        for length, status in (("1000000000", 413), ("9" * 5000, 413), ("-1", 400), ("1e9", 400), ("²", 400)):
            answer = web.post("/predict", content=b"{}", headers={**head, "Content-Length": length.encode()})
            assert answer.status_code == status, length


def test_who_comes_without_the_token_gets_nothing(web: TestClient) -> None:
    for header in ({}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer é"}):
        for method, path in (
            ("POST", "/predict"),
            ("POST", "/draw"),
            ("GET", "/model"),
            ("GET", "/metrics"),
            ("GET", "/x"),
        ):
            encoded = {"Authorization": "", **header}
            answer = web.request(method, path, headers={k: v.encode() for k, v in encoded.items()})
            assert answer.status_code == 401, (header, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert web.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}


def test_without_a_token_everybody_is_answered(folder: str) -> None:
    with client(folder, token=None) as web:
        assert web.get("/model").status_code == 200


def test_every_answer_tells_the_browser_what_it_may_do(web: TestClient) -> None:
    for path in ("/", "/page.js", "/health", "/nowhere"):
        headers = web.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    page = web.get("/").text
    assert "Research use only: never a diagnosis" in page
    assert "://" not in page
    assert "style=" not in page
    for path in ("/docs", "/openapi.json", "/page/../token"):
        assert web.get(path).status_code == 404
    assert web.get("/predict").status_code == 405
    assert set(web.get("/predict").json()) == {"error"}


def test_a_full_queue_says_when_to_come_again(folder: str) -> None:
    class Slow(Here):
        async def predict(self, record: Any) -> Any:
            await asyncio.sleep(0.5)
            return await super().predict(record)

    async def ask() -> list[httpx2.Response]:
        app = web_application(ServingConfig(model=folder, max_queue=3), Slow(folder), TOKEN)
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://x", headers=SHOWN) as web:
            found = await asyncio.gather(*(web.post("/predict", json=json_request()) for _ in range(8)))
            return [*found, await web.post("/predict", json=json_request())]

    *together, after = asyncio.run(ask())
    codes = [answer.status_code for answer in together]
    assert sorted(codes) == [200] * 3 + [503] * 5
    refused = next(answer for answer in together if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert "queue is full" in refused.json()["error"]
    assert after.status_code == 200


def test_health_is_that_of_the_model(folder: str) -> None:
    class Gone(Here):
        async def about(self) -> dict[str, Any]:
            raise Refusal(503, "gone")

    with client(folder, Gone(folder)) as web:
        assert web.get("/health").status_code == 503


def test_metrics_count_requests_by_outcome_and_batches(folder: str) -> None:
    with client(folder) as web:
        web.post("/predict", json=json_request())
        web.post("/predict", json={})
        web.get("/patients/p1989")
        web.get("/health")
        text = web.get("/metrics").text
    assert 'ecgmoe_requests_total{ingress="",path="/predict",status="200"} 1.0' in text
    assert 'ecgmoe_requests_total{ingress="",path="/predict",status="422"} 1.0' in text
    assert 'ecgmoe_requests_total{ingress="",path="other",status="404"} 1.0' in text
    assert 'ecgmoe_batch_size_count{ingress=""} 1.0' in text
    assert 'ecgmoe_queue{ingress=""} 0.0' in text
    assert 'ecgmoe_model{ingress="",version="' in text
    assert "p1989" not in text


def test_the_model_says_what_it_is(web: TestClient) -> None:
    about = web.get("/model").json()
    assert about["name"] == "first"
    assert about["use"] == "research use only: never a diagnosis"
    assert [task["name"] for task in about["tasks"]] == ["rr", "age", "sex", "potassium", "arrhythmia"]
    assert all(task["calibrated"] for task in about["tasks"])
    assert about["random_backbones"] == [each["name"] for each in about["backbones"]]


def test_the_drawing_is_a_picture_without_scripts(web: TestClient) -> None:
    answer = web.post("/draw", json=json_request())
    assert answer.headers["content-type"] == "image/svg+xml"
    assert b"<svg" in answer.content
    assert b"<script" not in answer.content


def test_no_log_holds_anything_of_a_request(web: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    files = {name.replace("one", "SMITH-JOHN"): content for name, content in wfdb_files(tmp_path).items()}
    files["SMITH-JOHN.hea"] = files["SMITH-JOHN.hea"].replace(b"one", b"SMITH-JOHN") + b"#SMITH-JOHN\n"
    assert web.post("/predict", files=as_form(files)).status_code == 200
    assert web.post("/predict", files=as_form(dict(list(files.items())[:1]))).status_code == 422
    assert web.post("/predict", json=json_request(leads=["SMITH-JOHN"] * 12)).status_code == 422
    lines = [line for line in caplog.text.splitlines() if "httpx" not in line]
    assert "SMITH" not in "\n".join(lines)
