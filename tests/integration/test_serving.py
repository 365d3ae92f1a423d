"""A server as a user starts it, on Ray Serve: the numbers of predict, reasons for what is wrong, a page, an end in order."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import httpx2
import psutil
import pytest

import ecgmoe
from browser import chromium
from jobs import Running, running
from predict_examples import calibrated_model
from serving_examples import as_form, bad_requests, json_request, wfdb_files

pytestmark = [pytest.mark.distributed, pytest.mark.ray]


class Served:
    """A running server and what is told to it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.port = f"http://127.0.0.1:{port}", port
        self.folder, self.model = folder, calibrated_model(folder / "first" / "model")
        self.files = wfdb_files(folder)
        self.run: Running

    @property
    def token(self) -> str:
        return (self.folder / "serve.token").read_text().strip()

    def client(self, token: str | None = None) -> httpx2.Client:
        shown = {"Authorization": f"Bearer {token or self.token}"}
        return httpx2.Client(base_url=self.url, headers=shown, timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    here = Served(tmp_path_factory.mktemp("served"))
    environment = {"ECGMOE_HOME": str(here.folder)}
    options = ["--model", here.model, "--port", str(here.port), "--batch-wait-ms", "200"]
    with running(here.folder / "log", "serve", *options, environment=environment) as run:
        run.wait_for("Research use only: never a diagnosis.")
        here.run = run
        yield here


def test_both_forms_get_the_numbers_of_predict(served: Served) -> None:
    expected = json.loads(json.dumps(asdict(ecgmoe.predict(served.folder / "one", model=served.model))))
    with served.client() as web:
        for answer in (
            web.post("/predict", files=as_form(served.files)),
            web.post("/predict", json=json_request()),
        ):
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert found.pop("use") == "research use only: never a diagnosis"
            assert found == expected


def test_bad_requests_get_a_reason_and_the_server_lives(served: Served) -> None:
    with served.client() as web:
        for name, (status, request) in bad_requests(served.folder).items():
            answer = web.post("/predict", **request)
            assert answer.status_code == status, (name, answer.text)
            assert set(answer.json()) == {"error"}, name
        json_head = {"Content-Type": "application/json"}
        assert web.post("/predict", content=b" " * 16_000_001, headers=json_head).status_code == 413
        assert web.post("/predict", json=json_request()).status_code == 200
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as raw:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {served.token}\r\n"
        raw.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n{{".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


def test_requests_at_the_same_time_are_predicted_in_one_pass(served: Served) -> None:
    def passes() -> float:
        return float(re.findall(r"^ecgmoe_batch_size_count\{.*\} (\S+)$", web.get("/metrics").text, re.MULTILINE)[0])

    with served.client() as web, ThreadPoolExecutor(8) as clients:
        alone = [web.post("/predict", json=json_request(seed)).json() for seed in range(8)]
        before = passes()
        together = list(clients.map(lambda seed: web.post("/predict", json=json_request(seed)).json(), range(8)))
        assert 1 <= passes() - before <= 4
    for one, other in zip(alone, together, strict=True):
        assert other["quality"] == one["quality"]
        # Sums of a pass of several records are taken in another order.
        assert other["tasks"]["rr"]["value"] == pytest.approx(one["tasks"]["rr"]["value"], rel=1e-5)
        assert other["tasks"]["age"]["value"] == pytest.approx(one["tasks"]["age"]["value"], rel=1e-5)


def test_only_the_token_opens_it(served: Served) -> None:
    assert (served.folder / "serve.token").stat().st_mode & 0o077 == 0
    with served.client("another-token-of-some-length") as web:
        for path in ("/model", "/metrics", "/draw"):
            assert web.get(path).status_code == 401
        assert web.post("/predict", json=json_request()).status_code == 401
        assert web.get("/health").json() == {"status": "ok"}
        assert web.get("/health", headers={"Host": "evil.example"}).status_code == 421


def test_it_says_what_it_serves_and_counts(served: Served) -> None:
    with served.client() as web:
        assert web.get("/model").json()["name"] == "first"
        assert web.post("/predict", json=json_request()).status_code == 200
        assert web.get("/health").status_code == 200
        text = web.get("/metrics").text
    assert 'path="/predict",status="200"' in text
    assert "ecgmoe_model{" in text


def test_the_page_shows_the_ecg_and_its_predictions(served: Served, tmp_path: Path) -> None:
    with chromium(served.url, tmp_path) as page:
        page.wait_for("!document.getElementById('login').hidden")
        page.value(f"document.getElementById('token').value = {json.dumps(served.token)}")
        page.value("document.querySelector('#login button').click()")
        page.wait_for("document.getElementById('model').textContent.includes('Model first')")
        page.choose("#files", served.folder / "one.hea", served.folder / "one.dat")
        page.value("document.getElementById('predict').click()")
        page.wait_for("document.getElementById('ecg').naturalWidth > 0")
        page.wait_for("!document.getElementById('results').hidden")
        assert page.value("document.getElementById('error').hidden")
        rows = page.value(
            "[...document.querySelectorAll('#rows tr')].map(row => [...row.cells].map(c => c.textContent))"
        )
        expected = ecgmoe.predict(served.folder / "one", model=served.model).tasks
        assert [row[0] for row in rows] == list(expected)
        assert rows[0][1] == f"{expected['rr'].value:.0f} ms"
        for width in (1200, 400):
            (tmp_path / f"page-{width}.png").write_bytes(page.picture(width))
            assert page.value("document.documentElement.scrollWidth <= window.innerWidth"), width

        page.choose("#files", served.folder / "one.hea")
        page.value("document.getElementById('predict').click()")
        page.wait_for("document.getElementById('error').textContent.includes('was not sent')")
        assert page.value("document.getElementById('results').hidden")
        assert page.problems == []
        # That the list is empty means something: this the page's own policy forbids.
        page.value("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')")
        page.wait_for("true")
        assert any("Content Security Policy" in each for each in page.problems)


def test_it_ends_in_order(served: Served) -> None:
    started = served.run.descendants("")
    served.run.process.send_signal(signal.SIGTERM)
    assert served.run.wait(60) == 0, served.run.text()
    assert served.run.text().rstrip().endswith("stopped")
    assert "Traceback" not in served.run.text()
    assert not psutil.wait_procs(started, timeout=15)[1]
