"""Admission and clean-up of runs: what Kueue and KubeRay take."""

from __future__ import annotations

import pytest
import yaml

from manifests import OVERLAYS, WITH_KUEUE, named, of, quantity


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
