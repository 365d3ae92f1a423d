"""MLflow: one run per training, whatever restarts happen in between.

The driver makes the run; rank 0 logs to it by its id. Metrics go by global step. After a restart the steps since the last
checkpoint are made again and would be stored a second time (MLflow keeps both): the store is asked for the last step of a
series, and what it has is not logged again. The numbers are the same ones where the layout is.

Training does not end because a store is away or its disk is full: what it does not take is kept, in the run folder at last,
and sent with what comes later.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ecgmoe.filesystem import StorageError, is_local, missing_package, refused_write, temporary_folder
from ecgmoe.home import home
from ecgmoe.pipeline.nodes import alive_nodes
from ecgmoe.pipeline.store import Store, digest_of

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Its own retries would hold all ranks up for minutes, at every logged step.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

EXPERIMENT = "ecgmoe"


def default_uri(storage: str) -> str:
    """MLFLOW_TRACKING_URI where it is set, else an SQLite file: in the storage folder, or for a URL under `home()`.

    Args:
        storage: folder or URL that holds runs.

    Raises:
        ValueError: an object store and several nodes, which would each have an SQLite file of their own.
        StorageError: `home()` cannot be written.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if is_local(storage):
        return f"sqlite:///{storage}/mlflow.db"
    nodes = len(alive_nodes())
    if nodes > 1:
        raise ValueError(
            f"{storage} is an object store, where MLflow cannot keep its database, and the cluster has {nodes} nodes: start "
            "an MLflow server (mlflow server --host ...) and set MLFLOW_TRACKING_URI to it, for the driver and on every node"
        )
    folder = home() / "mlflow"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused_write(error, str(folder), "set MLFLOW_TRACKING_URI or ECGMOE_HOME") from error
    # One for each place of runs, as where they lie on a disk: an MLflow experiment has one place for its artifacts.
    name = re.sub(r"[^A-Za-z0-9]+", "-", storage.partition("://")[2]).strip("-")
    return f"sqlite:///{folder}/{name}-{digest_of(storage)[:8]}.db"


_REMEDIES = {
    "disk is full": "the disk is full: free some space and run the same command again",
    "No space left": "the disk is full: free some space and run the same command again",
    "readonly database": "it is read-only: set MLFLOW_TRACKING_URI to another store",
    "unable to open database": "its folder is not there or read-only: make it, or set MLFLOW_TRACKING_URI",
    "No module named 'boto3'": "install the extra s3 (docker/install.sh .venv s3)",
}
_CLIENTS = ("mlflow", "sqlalchemy", "sqlite3", "boto3", "botocore", "requests", "urllib3")


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """One line with a remedy for what MLflow and what lies below it raise.

    Raises:
        StorageError: naming the tracking store.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _CLIENTS and not isinstance(error, (OSError, ImportError)):
            raise
        text = " ".join(str(error).split())
        remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in text), None)
        if remedy is None:
            remedy = f"{text[:300]}; check MLFLOW_TRACKING_URI and, for artifacts, AWS_ENDPOINT_URL and the credentials"
        raise StorageError(f"MLflow at {uri}: {remedy}") from error


def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


@dataclass(frozen=True, kw_only=True)
class ParentRun:
    """The MLflow run of a search or a table, of which each training is a child.

    Attributes:
        uri: of the store.
        run_id: of the run.
    """

    uri: str
    run_id: str


def create_run(
    uri: str,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str],
    artifacts: str,
    parent: ParentRun | None = None,
) -> str:
    """Make the run and log its parameters; returns its id.

    Raises:
        StorageError: the tracking store cannot be written, or a package for the place of the artifacts is missing.
    """
    if artifacts.startswith("s3://") and not importlib.util.find_spec("boto3"):
        raise missing_package(artifacts, "boto3")
    with _explained(uri):
        with _one_at_a_time(uri):
            client = _client(uri)
            identity = _experiment(client, artifacts)
        above = {"mlflow.parentRunId": parent.run_id} if parent else {}
        run = client.create_run(identity, run_name=name, tags={**tags, **above})
        for key, value in flat(parameters).items():
            client.log_param(run.info.run_id, key, str(value)[:500])
    return run.info.run_id


def _experiment(client: Any, artifacts: str) -> str:
    """Id of the experiment of all runs, made where it is not there."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        except MlflowException as error:
            # Another run made it meanwhile.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(EXPERIMENT)
    return found.experiment_id


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Processes that make the tables of one SQLite file at once would be in each other's way, and might leave half of them."""
    from filelock import FileLock

    lock = FileLock(f"{uri.removeprefix('sqlite:///')}.lock") if uri.startswith("sqlite:///") else None
    try:
        if lock:
            lock.acquire(timeout=120)
    except OSError:
        # Where no file can be made MLflow says why it cannot make its own.
        lock = None
    try:
        yield
    finally:
        if lock:
            lock.release()


def knows_run(uri: str, run_id: str) -> bool:
    """Whether a tracking store has this run."""
    from mlflow.exceptions import MlflowException

    with _explained(uri):
        try:
            _client(uri).get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
    return True


def medians(uri: str, run_id: str, names: Sequence[str]) -> dict[str, float | None]:
    """Median over the steps of each of these metrics; None where a run has none.

    Raises:
        StorageError: the tracking store cannot be read.
    """
    with _explained(uri):
        client = _client(uri)
        logged = {name: [each.value for each in client.get_metric_history(run_id, name)] for name in names}
    return {name: statistics.median(values) if values else None for name, values in logged.items()}


def register_model(run: Store, uri: str, name: str) -> int:
    """Store a finished run's model folder among the artifacts of its MLflow run, and register it; returns the version.

    A model that is registered already, under its run's id, keeps its version.

    Args:
        run: folder of the run.
        uri: of the store.
        name: of the registered model.

    Raises:
        StorageError: the tracking store cannot be written.
    """
    from mlflow.exceptions import MlflowException

    run_id = run.read_json("mlflow.json")["run_id"]
    with _explained(uri):
        client = _client(uri)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for each in client.search_model_versions(f"name='{name}'"):
            if each.run_id == run_id:
                return int(each.version)
        model = run / "model"
        with temporary_folder() as folder:
            for file in model.names():
                model.download(file, folder / file)
            client.log_artifacts(run_id, str(folder), "model")
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        return int(client.create_model_version(name, source, run_id).version)


def curves(uri: str, run_id: str, prefix: str) -> dict[str, list[float]]:
    """The values of each metric whose name begins with `prefix`, in the order of their steps, by the rest of its name.

    Raises:
        StorageError: the tracking store cannot be read.
    """
    with _explained(uri):
        client = _client(uri)
        names = [name for name in client.get_run(run_id).data.metrics if name.startswith(prefix)]
        histories = {name: client.get_metric_history(run_id, name) for name in names}
    return {
        name.removeprefix(prefix): [each.value for each in sorted(found, key=lambda each: each.step)]
        for name, found in histories.items()
    }


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(position): item for position, item in enumerate(value)}
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Numbers of one step.

    Attributes:
        metrics: by name.
        step: optimiser steps so far.
        series: one of these metrics, which stands for all that are logged along with it, or None.
        time_ms: when they were measured, since 1970.
    """

    metrics: dict[str, float]
    step: int
    series: str | None
    time_ms: int


class Tracker:
    """Logs numbers to one MLflow run.

    Args:
        uri: of the store.
        run_id: of the run.
        folder: keeps in `UNSENT` what the store did not take; None raises at once.
    """

    UNSENT = "mlflow-unsent.json"

    def __init__(self, uri: str, run_id: str, folder: Store | None = None) -> None:
        self.uri, self.run_id, self.folder = uri, run_id, folder
        self._last_step: dict[str, int] = {}
        self._unsent: list[Entry] = []
        if folder and folder.exists(self.UNSENT):
            self._unsent = [Entry(**each) for each in folder.read_json(self.UNSENT)]
        self._away, self._client = False, None

    @property
    def client(self) -> Any:
        """MLflow's client, made at the first use: the store may be away."""
        if self._client is None:
            self._client = _client(self.uri)
        return self._client

    def log(self, metrics: Mapping[str, float | None], step: int, series: str | None = None) -> None:
        """Log what is a number, in one request, which MLflow stores as a whole or not at all.

        Args:
            metrics: by name.
            step: optimiser steps so far.
            series: one of these metrics, which stands for all that are logged along with it: a step up to its last one
                in the store was logged before a restart, and is left out. None logs in any case.

        Raises:
            StorageError: the store refuses, and there is no folder to keep the numbers in.
        """
        import time

        known = {key: float(value) for key, value in metrics.items() if value is not None}
        self._unsent.append(Entry(metrics=known, step=step, series=series, time_ms=int(time.time() * 1000)))
        self.send()

    def send(self) -> None:
        """Send what was not sent, the oldest first; what the store does not take stays."""
        kept = len(self._unsent)
        try:
            with _explained(self.uri):
                while self._unsent:
                    self._send(self._unsent[0])
                    self._unsent.pop(0)
        except StorageError as error:
            if not self.folder:
                raise
            if not self._away:
                print(f"MLFLOW IS AWAY, training goes on and its numbers are kept: {error}", flush=True)
            self._away = True
            return
        if self._away:
            print(f"MLflow is back: {kept} logged steps were sent", flush=True)
        self._away = False
        if self.folder and kept > 1:
            self.folder.remove(self.UNSENT)

    def keep(self) -> None:
        """Keep in the run folder what was not sent, for whoever logs next."""
        if self.folder and self._unsent:
            self.folder.write_json(self.UNSENT, [asdict(each) for each in self._unsent])

    def _send(self, entry: Entry) -> None:
        from mlflow.entities import Metric

        if entry.series is not None and entry.step <= self._stored_up_to(entry.series):
            return
        metrics = [Metric(key, value, entry.time_ms, entry.step) for key, value in entry.metrics.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def _stored_up_to(self, series: str) -> int:
        """The last step of a metric when this process first asked, -1 where it had none."""
        if series not in self._last_step:
            with _explained(self.uri):
                history = self.client.get_metric_history(self.run_id, series)
            self._last_step[series] = max((each.step for each in history), default=-1)
        return self._last_step[series]

    def text(self, text: str, name: str) -> None:
        """Store a text among the run's artifacts."""
        with _explained(self.uri):
            self.client.log_text(self.run_id, text, name)

    def picture(self, png: bytes, name: str) -> None:
        """Store a PNG picture among the run's artifacts."""
        folder, _, file = name.rpartition("/")
        with temporary_folder() as temporary:
            path = temporary / file
            path.write_bytes(png)
            with _explained(self.uri):
                self.client.log_artifact(self.run_id, str(path), folder or None)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run."""
        with _explained(self.uri):
            self.client.set_terminated(self.run_id, status)
