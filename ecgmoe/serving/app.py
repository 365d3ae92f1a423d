"""The Serve application: an ingress that reads requests, and the model, each with copies and resources of its own.

They are apart because they need different things: reading, quality and R peaks want CPUs, the pass of the model a GPU where
there is one. In a Serve config file: `import_path: ecgmoe.serving.app:app`, with the fields of `ServingConfig` as args.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from ecgmoe.config_tools import from_dict, require
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.inference.predict_one import loaded
from ecgmoe.inference.predictor import check_model
from ecgmoe.pipeline.nodes import require_here
from ecgmoe.pipeline.ray_data import gpus_per_actor
from ecgmoe.serving.answers import Answer, answers, description
from ecgmoe.serving.batches import Batches
from ecgmoe.serving.config import NO_TOKEN, ServingConfig
from ecgmoe.serving.guard import Guard
from ecgmoe.serving.refusal import Refusal
from ecgmoe.serving.token import own_token_file, read_token
from ecgmoe.serving.web import web_application

QUIET = {"enable_access_log": False, "log_level": "WARNING"}
"""For all parts of Serve: lines of requests would hold what clients write into paths."""

FEW_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")}
"""oneDNN keeps a kernel for every shape that it met, 1,024 by default. TimesNet folds nearly every batch to other shapes: the
memory of a model would grow for hours."""


class Model:
    """A copy of the model, which predicts what waits for it in batches."""

    def __init__(self, config: ServingConfig) -> None:
        require_here(config.model)
        self._predictor, self._about = loaded(config.model)
        self._description = description(config.model, self._predictor, self._about)
        # Always the same one: each thread keeps memory of its own.
        self._thread = ThreadPoolExecutor(1, "model")
        self._batches = Batches(self._answers, config.max_batch, config.batch_wait_ms / 1000)

    async def about(self) -> dict[str, Any]:
        """What GET /model answers."""
        return self._description

    async def predict(self, record: UsableRecord) -> Answer:
        """Predict a record together with those that wait beside it."""
        return await self._batches(record)

    async def _answers(self, records: Sequence[UsableRecord]) -> list[Answer]:
        # On a thread, so that further records gather meanwhile. What comes from another process cannot be written to, and
        # torch warns of that.
        own = [replace(each, signal=each.signal.copy(), r_peaks=each.r_peaks.copy()) for each in records]
        work = partial(answers, self._predictor, self._about, own)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Remote:
    """The model's copies behind Serve."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def predict(self, record: UsableRecord) -> Answer:
        return await self._answer(self._handle.predict.remote(record))

    async def about(self) -> dict[str, Any]:
        return await self._answer(self._handle.about.remote())

    async def _answer(self, response: Any) -> Any:
        try:
            return await response
        except (RayError, RayServeException) as error:
            raise Refusal(503, "the model is being started again: send the request again after a second") from error


@serve.ingress()
class Ingress:
    """Reads requests, refuses what is wrong with them, and asks the model."""

    def __init__(self, config: ServingConfig, token_file: str | None, model: DeploymentHandle) -> None:
        token = None if token_file is None else read_token(token_file)
        name = serve.get_replica_context().replica_id.unique_id
        self._web = web_application(config, _Remote(model), token, name)

    def __serve_build_asgi_app__(self) -> Guard:
        """What Serve calls for each request."""
        return self._web


def application(config: ServingConfig) -> Application:
    """The application of a configuration.

    Raises:
        ModelFolderError: `config.model` is no model folder.
        StorageError: a token cannot be made.
        ValueError: GPUs that the cluster lacks.
    """
    check_model(config.model)
    no_token = config.token_file == NO_TOKEN
    token_file = None if no_token else str(Path(config.token_file or own_token_file()).absolute())
    model = (
        serve.deployment(Model)
        .options(
            num_replicas=config.replicas,
            # What the ingresses let in waits here, where batches are made of it: a router that waits for a free place asks
            # again after longer and longer pauses, in which the model has nothing to do.
            max_ongoing_requests=config.ingress_replicas * config.max_queue + 64,
            ray_actor_options={
                "num_cpus": 1,
                "num_gpus": gpus_per_actor(config.num_gpus),
                "runtime_env": {"env_vars": FEW_KERNELS},
            },
            logging_config=QUIET,
        )
        .bind(config)
    )
    ingress = serve.deployment(Ingress).options(
        num_replicas=config.ingress_replicas,
        # Above what it lets in, so that it refuses in its own words; Serve's own queue is the last resort.
        max_ongoing_requests=2 * config.max_queue + 64,
        max_queued_requests=config.max_queue,
        ray_actor_options={"num_cpus": 1},
        logging_config=QUIET,
    )
    return ingress.bind(config, token_file, model)


def app(args: dict[str, Any]) -> Application:
    """Application builder for `serve run` and Serve config files.

    Args:
        args: fields of `ServingConfig`.

    Raises:
        ValueError: an unknown field or a value out of range; or no token, which jobs/serve.py alone allows, on loopback.
    """
    config = from_dict(ServingConfig, args)
    require(config.token_file != NO_TOKEN, f"token_file {NO_TOKEN} is for jobs/serve.py on loopback: name a file")
    return application(config)
