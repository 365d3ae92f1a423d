"""MLflow's server on a real PostgreSQL (Debian's package, on loopback), with the command and the variables of the manifest."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from mlflow import MlflowClient

from ecgmoe.training.tracking import Tracker, create_run, knows_run
from manifests import Document, documents
from object_store import free_port

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def container(kind: str, name: str) -> Document:
    workload = next(each for each in documents("local") if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return workload["spec"]["template"]["spec"]["containers"][0]


def variables(container: Document, secret: str) -> dict[str, str]:
    """Its environment, with the one Secret that it asks for."""
    found = {}
    for each in container["env"]:
        if "valueFrom" in each:
            assert each["valueFrom"] == {"secretKeyRef": {"name": "mlflow-database", "key": "password"}}
        found[each["name"]] = each.get("value", secret)
    return found


@pytest.fixture(scope="module")
def password() -> str:
    return secrets.token_hex(32)


@pytest.fixture(scope="module")
def database(password: str) -> Iterator[int]:
    """A server as the image of the manifest makes it from its variables; yields its port."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    told = variables(container("StatefulSet", "mlflow-database"), password)
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    user = None
    if not os.geteuid():
        # It refuses root, as the manifest does.
        user = "postgres" if "postgres" in {each.pw_name for each in pwd.getpwall()} else "nobody"
    (folder / "password").write_text(password)
    for path in (folder, folder / "password"):
        if user:
            shutil.chown(path, user)
    port = free_port()
    options = told["POSTGRES_INITDB_ARGS"].split()
    init = [
        programs[-1] / "initdb",
        "-D",
        folder / "data",
        "-U",
        told["POSTGRES_USER"],
        f"--pwfile={folder / 'password'}",
    ]
    subprocess.run([*init, *options], user=user, cwd=folder, check=True, capture_output=True)
    serve = [programs[-1] / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(serve, user=user, cwd=folder, stdout=log, stderr=log)
    try:
        made = {"host": "127.0.0.1", "port": port, "user": told["POSTGRES_USER"], "password": password}
        end = time.monotonic() + 60
        while True:
            try:
                with_postgres = psycopg2.connect(dbname="postgres", **made)
                break
            except psycopg2.OperationalError:
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.2)
        with_postgres.autocommit = True
        with_postgres.cursor().execute(f'CREATE DATABASE "{told["POSTGRES_DB"]}"')
        with_postgres.close()
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(dbname=told["POSTGRES_DB"], **{**made, "password": "guessed"})
        yield port
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "runs"


@pytest.fixture(scope="module")
def mlflow(database: int, password: str, runs: Path) -> Iterator[str]:
    """The server of the manifest at another address; yields its URI."""
    told = container("Deployment", "mlflow")
    port = free_port()
    changed = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=5000": f"--port={port}",
        "--default-artifact-root=/shared/runs/mlflow-artifacts": f"--default-artifact-root={runs}/mlflow-artifacts",
    }
    assert set(changed) <= set(told["args"])
    own = variables(told, password)
    uri = own["MLFLOW_BACKEND_STORE_URI"]
    own["MLFLOW_BACKEND_STORE_URI"] = uri.replace("mlflow-database:5432", f"127.0.0.1:{database}")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PG"))}
    command = [Path(sys.executable).parent / told["command"][0], *told["command"][1:]]
    command += [changed.get(each, each) for each in told["args"]]
    log = runs.parent / "mlflow.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=inherited | own, cwd=runs.parent, stdout=out, stderr=out)
    address = f"http://127.0.0.1:{port}"
    try:
        (probe,) = told["startupProbe"]["httpGet"]["httpHeaders"]
        # The manifest's probe gives 180 s; this machine may be busy.
        end = time.monotonic() + 300
        while status(f"{address}/health", probe["value"]) != 200:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        yield address
        assert password not in log.read_text()
    finally:
        server.terminate()
        server.wait(60)


def status(url: str, host: str) -> int:
    request = urllib.request.Request(url, headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_run_is_kept_in_postgres(mlflow: str, database: int, password: str, runs: Path) -> None:
    artifacts = runs / "mlflow-artifacts"
    run = create_run(mlflow, "first", {"training": {"epochs": 3}}, {"revision": "abc"}, str(artifacts))
    assert knows_run(mlflow, run)
    for last in (2, 3):
        # The second one as after a restart: it makes two steps again, and one more.
        tracker = Tracker(mlflow, run)
        for step in range(1, last + 1):
            tracker.log({"train/loss_rr": 1 / step}, step=step, series="train/loss_rr")
    tracker.text("<p>report</p>", "report/report.html")
    tracker.finish()
    found = MlflowClient(mlflow).get_run(run)
    assert found.info.status == "FINISHED"
    assert found.data.params["training.epochs"] == "3"
    assert [each.step for each in MlflowClient(mlflow).get_metric_history(run, "train/loss_rr")] == [1, 2, 3]
    there = psycopg2.connect(host="127.0.0.1", port=database, user="mlflow", password=password, dbname="mlflow")
    with there.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metrics WHERE run_uuid = %s", (run,))
        assert cursor.fetchone() == (3,)
    there.close()
    # Written by the run itself, where its storage is; the server shows it.
    (page,) = artifacts.rglob("report.html")
    assert page.read_text() == "<p>report</p>"
    assert status(f"{mlflow}/get-artifact?path=report/report.html&run_uuid={run}", "localhost:5000") == 200


def test_the_server_answers_to_its_own_names_and_takes_no_uploads(mlflow: str) -> None:
    path = f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert status(path, "mlflow.ecgmoe.svc:5000") == 200
    assert status(path, "attacker.example") == 403
    assert status(f"{mlflow}/api/2.0/mlflow-artifacts/artifacts", "localhost:5000") not in (0, 200)
