"""Serve a model in the foreground until somebody ends it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray
from ray import serve

from ecgmoe.config_tools import require
from ecgmoe.inference.predictor import check_model
from ecgmoe.pipeline.layout import Operator, refuse_impossible
from ecgmoe.pipeline.nodes import refuse_local
from ecgmoe.pipeline.ray_data import connect, gpus_per_actor
from ecgmoe.serving.app import QUIET, application
from ecgmoe.serving.config import LOOPBACK, NO_TOKEN, ServingConfig
from ecgmoe.serving.token import own_token_file, read_token

APPLICATION = "ecgmoe"
_ENDS = (signal.SIGINT, signal.SIGTERM)


def serve_model(config: ServingConfig, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; returns when everything that was started is gone.

    Raises:
        ModelFolderError: `config.model` is no model folder.
        ValueError: the port is taken, the token is missing beyond loopback, or the cluster cannot hold the processes.
    """
    with served(config, host, port) as token_file:
        _wait(config.model, token_file, host, port)
    print("stopped")


@contextmanager
def served(config: ServingConfig, host: str, port: int) -> Iterator[str | None]:
    """A server while the context lasts; gives the file of its token, None where it asks for none.

    Raises:
        ModelFolderError: `config.model` is no model folder.
        ValueError: as `serve_model`.
    """
    loopback = host in LOOPBACK
    require(
        loopback or config.token_file != NO_TOKEN,
        f"--token-file {NO_TOKEN} lets everybody in who reaches {host}: it is taken with --host 127.0.0.1 only",
    )
    check_model(config.model)
    refuse_local(model=config.model)
    if loopback and not config.hosts:
        config = replace(config, hosts=LOOPBACK)
    token_file = None
    if config.token_file != NO_TOKEN:
        token_file = str(Path(config.token_file or own_token_file()).absolute())
        config = replace(config, token_file=token_file)
        read_token(token_file)
    _require_free(host, port)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    connect(dashboard=False)
    try:
        _require_room(config)
        require(not serve.status().proxies, "Serve runs on this cluster already: deploy there with a config file")
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=QUIET)
        serve.run(application(config), name=APPLICATION)
        yield token_file
        # Requests inside are answered; without this Serve's own end takes half a minute.
        serve.delete(APPLICATION)
        if os.environ.get("RAY_ADDRESS", "local") != "local":
            serve.shutdown()
    finally:
        ray.shutdown()


def _wait(model: str, token_file: str | None, host: str, port: int) -> None:
    ended = threading.Event()
    for number in _ENDS:
        signal.signal(number, lambda *_: ended.set())
    place = f"[{host}]" if ":" in host else host
    print(f"serving {model} at http://{place}:{port}  (Ctrl-C ends it)")
    if token_file is None:
        print("no token is asked for: every program of this machine can call it")
    else:
        print(f"the token is in {token_file}")
    print("Research use only: never a diagnosis.")
    # Without a time limit a thread that waits would not let Python handle signals everywhere.
    while not ended.wait(1.0):
        pass
    print("stopping")
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"cannot serve at {host} port {port} ({reason}): choose another --host or --port"
            ) from error


def _require_room(config: ServingConfig) -> None:
    model = Operator(cpus=1, gpus=gpus_per_actor(config.num_gpus), actors=config.replicas)
    ingress = Operator(cpus=1, gpus=0, actors=config.ingress_replicas)
    refuse_impossible("serve", [model, ingress], [node["Resources"] for node in ray.nodes() if node["Alive"]])
