"""What the manifests promise of pods: few rights, no secrets, clusters that are made alike, nodes that they may run on."""

from __future__ import annotations

import re

import pytest

from jobs import REPOSITORY
from manifests import OVERLAYS, documents, gpus_of, of, pod_specs, quantity, ray_specs


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
