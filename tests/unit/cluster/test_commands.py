"""The commands and settings of the manifests are ones that the jobs and the server understand, and there is room for them."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from ecgmoe.cli import parse, take_preset
from ecgmoe.config import PRESETS
from ecgmoe.config_tools import from_dict
from ecgmoe.serving.config import ServingConfig
from jobs import REPOSITORY
from manifests import OVERLAYS, cpus_of, gpus_of, named


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_training_command_is_one_that_train_understands_and_its_workers_have_room(name: str) -> None:
    job = named(name, "RayJob", "train")["spec"]
    preset, parsed = understood(job["entrypoint"], "jobs", "train")
    training = parsed.config.training
    # A retry goes on because of its name.
    assert parsed.run
    assert job["backoffLimit"] >= 1
    assert parsed.storage.startswith(("/shared/", "s3://"))
    groups = job["rayClusterSpec"]["workerGroupSpecs"]
    if training.use_gpu:
        assert training.num_workers == sum(group["replicas"] * gpus_of(group) for group in groups)
    else:
        assert training.num_workers < cpus_of(groups)
    assert training.use_gpu == (preset != "tiny")


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_tuning_command_is_one_that_search_understands_and_a_trial_has_room(name: str) -> None:
    job = named(name, "RayJob", "tune")["spec"]
    _, parsed = understood(job["entrypoint"], "tune", "search")
    # A retry goes on because of its name.
    assert parsed.name != "search"
    assert parsed.storage.startswith(("/shared/", "s3://"))
    assert parsed.data
    training = parsed.config.training
    groups = job["rayClusterSpec"]["workerGroupSpecs"]
    # Trials side by side take what there is; one alone has to fit, else every attempt is refused.
    if training.use_gpu:
        assert training.num_workers <= sum(group["replicas"] * gpus_of(group) for group in groups)
    else:
        assert training.num_workers < cpus_of(groups)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_server_is_told_what_it_understands(name: str) -> None:
    service = named(name, "RayService", "serve")["spec"]
    deploy = ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"]))
    (application,) = deploy.applications
    config = from_dict(ServingConfig, application.args)
    assert config.token_file == "/secrets/serve/token"
    for group in [service["rayClusterConfig"]["headGroupSpec"], *service["rayClusterConfig"]["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        mounted = {each["mountPath"]: each for each in pod["containers"][0]["volumeMounts"]}
        secret = next(each for each in pod["volumes"] if each["name"] == mounted["/secrets/serve"]["name"])["secret"]
        # serving/token.py refuses what everybody can read.
        assert secret["defaultMode"] & 0o007 == 0
        # Of the shared volume the model alone, and only to read.
        claims = {each["name"] for each in pod["volumes"] if "persistentVolumeClaim" in each}
        shared = [each for each in mounted.values() if each["name"] in claims]
        if config.model.startswith("s3://"):
            assert claims == set()
        else:
            below = config.model.removeprefix("/shared/")
            assert shared == [{"name": "shared", "mountPath": config.model, "subPath": below, "readOnly": True}]
        secrets = [each["secretRef"]["name"] for each in pod["containers"][0]["envFrom"] if "secretRef" in each]
        assert secrets == ["ecgmoe-s3-read"]


def understood(command: str, folder: str, name: str) -> tuple[str, Any]:
    """Preset and options, as the job of this name takes them from its command."""
    python, script, *options = shlex.split(command)
    assert (python, script) == ("python", f"/opt/ecgmoe/{folder}/{name}.py")
    job = entry_point(folder, name)
    preset, config, rest = take_preset(options, PRESETS, "tiny")
    return preset, parse(job.Options, rest, "", job.Options(storage="", config=config))


def entry_point(folder: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", REPOSITORY / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for the types that their fields name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
