"""Who reaches whom: network policies and addresses."""

from __future__ import annotations

import pytest

from manifests import OVERLAYS, Document, documents, named, of, ray_specs


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
