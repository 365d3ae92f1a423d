"""What the manifests promise: no rights that are not needed, room and time that fit, and commands that the jobs understand."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from ecgmoe.cli import parse, take_preset
from ecgmoe.config import PRESETS
from ecgmoe.config_tools import from_dict
from ecgmoe.metrics import METRICS
from ecgmoe.serving.config import ServingConfig
from jobs import REPOSITORY
from manifests import OVERLAYS, Document, documents, pod_specs, ray_specs

WITH_KUEUE = ("single-gpu-node", "multi-node-spot")


def of(name: str, kind: str) -> list[Document]:
    return [each for each in documents(name) if each["kind"] == kind]


def named(name: str, kind: str, one: str) -> Document:
    return next(each for each in of(name, kind) if each["metadata"]["name"] == one)


def quantity(value: str) -> float:
    """A Kubernetes quantity as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi|Ti)?", value).groups()  # type: ignore[union-attr]
    return float(number) * {None: 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_pod_has_more_rights_than_it_needs(name: str) -> None:
    """What Kubernetes calls restricted, which the namespace enforces; and a limit for everything."""
    assert of(name, "Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    found = [pod for document in documents(name) for pod in pod_specs(document)]
    assert len(found) > 10
    for where, pod in found:
        assert pod["automountServiceAccountToken"] is False, where
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        assert pod["securityContext"]["runAsUser"] > 0, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not pod.get("hostNetwork"), where
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, where
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, where
            assert not container["image"].endswith(":latest"), where
            for resource in ("cpu", "memory"):
                assert resource in container["resources"]["limits"], where
                assert resource in container["resources"]["requests"], where
        for volume in pod.get("volumes", []):
            assert "hostPath" not in volume, where


@pytest.mark.parametrize("name", OVERLAYS)
def test_nothing_secret_is_written_down_or_open_to_the_world(name: str) -> None:
    assert of(name, "Secret") == []
    for where, pod in [pod for document in documents(name) for pod in pod_specs(document)]:
        for container in pod["containers"]:
            for variable in container.get("env", []):
                secret = re.search("PASSWORD|TOKEN|SECRET|ACCESS_KEY", variable["name"])
                assert not (secret and "value" in variable), (where, variable)
                # Neither in an address.
                assert not re.search(r"://[^/@]*:[^/@]+@", variable.get("value", "")), (where, variable)
    for service in of(name, "Service"):
        assert service["spec"]["type"] == "ClusterIP"
    for document in documents(name):
        for spec in ray_specs(document):
            assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
            assert "enableIngress" not in spec["headGroupSpec"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_network_is_closed_and_jobs_have_few_doors(name: str) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of(name, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for each in policies.values():
        for rule in each.get("ingress", []):
            # Without "from" a rule means everybody.
            assert rule["from"]
            for peer in rule["from"]:
                assert peer.get("namespaceSelector", {"matchLabels": 1}) != {}
    jobs = policies["ray-jobs"]["ingress"]
    assert [port["port"] for rule in jobs for port in rule["ports"]] == [8265]
    who = [peer["podSelector"]["matchLabels"] for rule in jobs for peer in rule["from"]]
    # The label that the operator's pod has from KubeRay's Helm chart and from its kustomize manifest alike.
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    assert who == [{"app.kubernetes.io/component": "submitter"}, operator]
    assert operator in [
        peer.get("podSelector", {}).get("matchLabels")
        for rule in policies["serving"]["ingress"]
        for peer in rule["from"]
    ]
    for job in of(name, "RayJob"):
        labels = job["spec"]["submitterPodTemplate"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/component"] == "submitter"
    # Which Ray pods may talk to which, and to MLflow. KubeRay adds the label is-ray-node.
    parts = {
        document["metadata"]["name"]: group["template"]["metadata"]["labels"] | {"ray.io/is-ray-node": "yes"}
        for document in documents(name)
        for spec in ray_specs(document)
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    }
    assert set(parts) == {"ecgmoe", "train", "tune", "serve"}
    mlflow = named(name, "Deployment", "mlflow")["spec"]["template"]["metadata"]["labels"]
    runs = {"ecgmoe", "train", "tune"}
    for one, labels in parts.items():
        ray_peers = {other for other in parts if allowed(policies, labels, parts[other])}
        assert ray_peers == ({"serve"} if one == "serve" else runs)
        assert allowed(policies, labels, mlflow) == (one != "serve")
        assert not allowed(policies, mlflow, labels)


def selects(selector: Document, labels: Document) -> bool:
    fits = [labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()]
    for each in selector.get("matchExpressions", []):
        there = labels.get(each["key"]) in each["values"]
        fits.append(there if {"In": True, "NotIn": False}[each["operator"]] else not there)
    return all(fits)


def allowed(policies: dict[str, Document], source: Document, target: Document) -> bool:
    """Whether pods with these labels reach others of the namespace on any port: one lets them out, one lets them in."""
    out, into = (
        any(
            selects(policy["podSelector"], one)
            and any(
                "namespaceSelector" not in peer and "podSelector" in peer and selects(peer["podSelector"], other)
                for rule in policy.get(way, [])
                for peer in rule[side]
            )
            for policy in policies.values()
        )
        for way, side, one, other in (("egress", "to", source, target), ("ingress", "from", target, source))
    )
    return out and into


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_ray_cluster_is_made_as_the_others(name: str) -> None:
    ray = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split())["ray"]
    clusters = [(each, spec) for each in documents(name) for spec in ray_specs(each)]
    assert len(clusters) == 4
    for document, spec in clusters:
        where = document["metadata"]["name"]
        assert spec["authOptions"] == {"mode": "token"}, where
        assert spec["rayVersion"] == ray, where
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", where
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        for group in groups:
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
            volumes = {each["name"]: each for each in pod["volumes"]}
            shm = volumes[mounts["/dev/shm"]]["emptyDir"]
            assert shm["medium"] == "Memory", where
            # It is counted as memory of the container.
            assert quantity(shm["sizeLimit"]) <= quantity(container["resources"]["limits"]["memory"]) / 2, where
            assert {"configMapRef": {"name": "ecgmoe-environment"}} in container["envFrom"], where
            if document["kind"] != "RayService" and group is not groups[0]:
                stop = container["lifecycle"]["preStop"]["exec"]["command"][-1]
                script, seconds = re.fullmatch(r'python /opt/ecgmoe/(\S+) "\$POD_IP" (\d+)', stop).groups()  # type: ignore[union-attr]
                assert (REPOSITORY / script).is_file(), where
                assert f"!{script}" in (REPOSITORY / ".dockerignore").read_text().splitlines(), where
                # Beside the wait a start of Python, and the last checkpoint.
                assert pod["terminationGracePeriodSeconds"] >= int(seconds) + 50 >= 150, where
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] == group["replicas"] == group["maxReplicas"], where
            gpus = gpus_of(group)
            (container,) = group["template"]["spec"]["containers"]
            assert container["image"].endswith(":gpu" if gpus else ":cpu"), where
            tolerated = [each["key"] for each in group["template"]["spec"].get("tolerations", [])]
            assert ("nvidia.com/gpu" in tolerated) == bool(gpus), where


def gpus_of(group: Document) -> int:
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_training_command_is_one_that_train_understands_and_its_workers_have_room(name: str) -> None:
    job = named(name, "RayJob", "train")["spec"]
    python, script, *options = shlex.split(job["entrypoint"])
    assert (python, script) == ("python", "/opt/ecgmoe/jobs/train.py")
    train = entry_point("jobs", "train")
    preset, config, rest = take_preset(options, PRESETS, "tiny")
    parsed = parse(train.Options, rest, "", train.Options(storage="", config=config))
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


def cpus_of(groups: list[Document]) -> float:
    return sum(
        group["replicas"] * quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for group in groups
    )


def entry_point(folder: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", REPOSITORY / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for the types that their fields name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_tuning_command_is_one_that_search_understands_and_a_trial_has_room(name: str) -> None:
    job = named(name, "RayJob", "tune")["spec"]
    python, script, *options = shlex.split(job["entrypoint"])
    assert (python, script) == ("python", "/opt/ecgmoe/tune/search.py")
    search = entry_point("tune", "search")
    _, config, rest = take_preset(options, PRESETS, "tiny")
    parsed = parse(search.Options, rest, "", search.Options(storage="", config=config))
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
def test_clean_up_is_one_that_the_operator_takes(name: str) -> None:
    """KubeRay takes deletion rules, in the order workers, cluster, job, or shutdownAfterJobFinishes; Kueue the latter alone."""
    for job in of(name, "RayJob"):
        spec = job["spec"]
        queued = "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]
        assert queued == (name in WITH_KUEUE)
        if queued:
            assert spec["shutdownAfterJobFinishes"] is True
            assert "deletionStrategy" not in spec
            assert not spec["rayClusterSpec"].get("enableInTreeAutoscaling")
            assert {group["groupName"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]}.isdisjoint(
                {"head", "submitter"}
            )
        else:
            assert "shutdownAfterJobFinishes" not in spec
            assert "ttlSecondsAfterFinished" not in spec
            for status in ("SUCCEEDED", "FAILED"):
                rules = {
                    rule["policy"]: rule["condition"]["ttlSeconds"]
                    for rule in spec["deletionStrategy"]["deletionRules"]
                    if rule["condition"]["jobStatus"] == status
                }
                times = [
                    rules[policy] for policy in ("DeleteWorkers", "DeleteCluster", "DeleteSelf") if policy in rules
                ]
                assert times == sorted(times)
                assert "DeleteCluster" in rules
        assert int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) < 150


@pytest.mark.parametrize("name", WITH_KUEUE)
def test_a_run_fits_into_its_queue(name: str) -> None:
    """Else it would wait for ever: every pod of a run at once, each on the flavour whose taints it tolerates."""
    queue = named(name, "ClusterQueue", "ecgmoe")["spec"]["resourceGroups"][0]
    taints = {each["metadata"]["name"]: each["spec"].get("nodeTaints", []) for each in of(name, "ResourceFlavor")}
    quota = {
        flavor["name"]: {each["name"]: quantity(each["nominalQuota"]) for each in flavor["resources"]}
        for flavor in queue["flavors"]
    }
    for job in of(name, "RayJob"):
        spec = job["spec"]["rayClusterSpec"]
        asked: dict[str, dict[str, float]] = {flavor: dict.fromkeys(quota[flavor], 0.0) for flavor in quota}
        pods = [(1, spec["headGroupSpec"]), *((group["replicas"], group) for group in spec["workerGroupSpecs"])]
        pods.append((1, {"template": job["spec"]["submitterPodTemplate"]}))
        for count, group in pods:
            pod = group["template"]["spec"]
            requests = pod["containers"][0]["resources"]["requests"]
            flavor = "ecgmoe-gpu" if "nvidia.com/gpu" in requests else "ecgmoe-cpu"
            tolerated = {each["key"] for each in pod.get("tolerations", [])}
            assert {taint["key"] for taint in taints[flavor]} <= tolerated
            for resource, value in requests.items():
                asked[flavor][resource] += count * quantity(value)
        for flavor, resources in asked.items():
            for resource, value in resources.items():
                assert value <= quota[flavor][resource], (job["metadata"]["name"], flavor, resource)


def test_spot_nodes_take_workers_and_not_the_driver() -> None:
    for document in documents("multi-node-spot"):
        for spec in ray_specs(document):
            if document["kind"] == "RayService":
                continue
            gpu = next(group for group in spec["workerGroupSpecs"] if gpus_of(group))["template"]["spec"]
            assert gpu["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
            assert "ecgmoe/spot" in [each["key"] for each in gpu["tolerations"]]
            template = spec["headGroupSpec"]["template"]
            assert template["metadata"]["annotations"] == {"karpenter.sh/do-not-disrupt": "true"}
            head = template["spec"]
            assert head["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
            assert "tolerations" not in head


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


@pytest.mark.parametrize("name", WITH_KUEUE)
def test_alerts_ask_for_metrics_that_there_are(name: str) -> None:
    known = {f"ray_ecgmoe_{metric}{'_total' if told.counts else ''}" for metric, told in METRICS.items()}
    # Of KubeRay's operator, by its documentation.
    known |= {"kuberay_job_deployment_status"}
    for rule in [
        rule for group in named(name, "PrometheusRule", "ecgmoe")["spec"]["groups"] for rule in group["rules"]
    ]:
        asked = metrics_asked_for(rule["expr"])
        assert asked, rule["alert"]
        assert asked <= known, rule["alert"]
        page, _, message = rule["annotations"]["runbook"].partition(", ")
        assert message.lower() in (REPOSITORY / page).read_text().lower(), rule["alert"]
    monitors = {each["metadata"]["name"]: each["spec"] for each in of(name, "PodMonitor")}
    ports = {one: each["podMetricsEndpoints"][0]["port"] for one, each in monitors.items()}
    assert ports == {"ray-heads": "metrics", "ray-workers": "metrics", "kuberay-operator": "http"}
    operator = monitors["kuberay-operator"]
    assert operator["namespaceSelector"] == {"matchNames": ["kuberay-system"]}
    # Else the label namespace, by which the alerts choose, would be the operator's.
    assert operator["podMetricsEndpoints"][0]["honorLabels"] is True


def metrics_asked_for(expression: str) -> set[str]:
    """Names of metrics in a PromQL expression of this simple kind; whether it means what it should is not looked at.

    Raises:
        ValueError: its brackets do not close.
    """
    unquoted = re.sub(r'"[^"]*"', "", expression)
    opened: list[str] = []
    for sign in re.findall(r"[()\[\]{}]", unquoted):
        if sign in "([{":
            opened.append({"(": ")", "[": "]", "{": "}"}[sign])
        elif not opened or opened.pop() != sign:
            raise ValueError(f"{sign} closes nothing in {expression!r}")
    if opened:
        raise ValueError(f"{opened[-1]} is missing in {expression!r}")
    # Without labels, ranges and the labels that are summed over or matched on, and without functions.
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", unquoted)
    words = set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*\b(?!\s*\()", bare))
    aggregations = {"sum", "max", "min", "avg", "count"}
    return words - aggregations - {"and", "or", "unless", "offset", "bool"}


def test_metrics_are_found_in_expressions() -> None:
    asked = metrics_asked_for('max by (run) (changes(a_total{kind=~"b|c("}[45m])) > 0.5 and on (run) d offset 45m == 1')
    assert asked == {"a_total", "d"}
    for broken in ("max(a", "max(a))", "a[5m}", "max by (run (a)"):
        with pytest.raises(ValueError, match=r"closes nothing|is missing"):
            metrics_asked_for(broken)


@pytest.mark.parametrize("name", OVERLAYS)
def test_addresses_lead_to_services(name: str) -> None:
    environment = named(name, "ConfigMap", "ecgmoe-environment")["data"]
    service = named(name, "Service", "mlflow")
    port = service["spec"]["ports"][0]["port"]
    assert environment["MLFLOW_TRACKING_URI"] == f"http://mlflow.{service['metadata']['namespace']}.svc:{port}"
    server = named(name, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value") for each in server["env"]}
    assert f"mlflow.{service['metadata']['namespace']}.svc:{port}" in variables["MLFLOW_SERVER_ALLOWED_HOSTS"].split(
        ","
    )
    named(name, "Service", "mlflow-database")
    assert "@mlflow-database:5432/" in variables["MLFLOW_BACKEND_STORE_URI"]
    assert environment["ECGMOE_HOME"].startswith("/shared/")
    assert environment["ECGMOE_SHARED_MOUNT"] == "1"


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_belongs_to_a_part_that_is_applied(name: str) -> None:
    """cluster/README.md applies by this label; what has none would never be."""
    parts: dict[str, set[str]] = {}
    for document in documents(name):
        part = document["metadata"]["labels"]["app.kubernetes.io/component"]
        parts.setdefault(part, set()).add(document["kind"])
    starts = {"train": {"RayJob"}, "tune": {"RayJob"}, "cluster": {"RayCluster"}, "serve": {"RayService"}}
    assert {part: kinds for part, kinds in parts.items() if part != "platform"} == starts
    assert not [kind for kind in parts["platform"] if kind.startswith("Ray")]


def test_pages_name_files_that_there_are() -> None:
    for page in ("cluster/README.md", "SECURITY.md"):
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", (REPOSITORY / page).read_text()):
            assert (REPOSITORY / Path(page).parent / link).exists(), (page, link)
