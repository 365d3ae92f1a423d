"""Every document of every overlay is valid, with unknown fields refused; a broken one is not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from manifests import OVERLAYS, changed, check, cluster_folder, documents, require_crds
from render import identity, load, rendered


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_document_is_valid(name: str) -> None:
    require_crds()
    for document in documents(name):
        check(document)
    kinds = {document["kind"] for document in documents(name)}
    assert {"RayCluster", "RayJob", "RayService", "NetworkPolicy", "PersistentVolumeClaim", "Deployment"} <= kinds


def test_every_file_is_part_of_an_overlay() -> None:
    """So that none escapes the checks."""
    used = {identity(document) for name in OVERLAYS for document in documents(name)}
    for path in [*cluster_folder().glob("base/*.yaml"), *cluster_folder().glob("components/*/*.yaml")]:
        if path.name != "kustomization.yaml":
            found = {identity(document) for document in load(path.read_text())}
            assert found <= used, path
    assert sorted(OVERLAYS) == sorted(each.name for each in (cluster_folder() / "overlays").iterdir())


BROKEN = [
    ("RayJob", "train", "spec/backofLimit", 3),
    ("RayJob", "train", "spec/backoffLimit", "three"),
    ("RayJob", "train", "spec/rayClusterSpec/authOptions/mode", "tokens"),
    ("RayJob", "train", "spec/rayClusterSpec/workerGroupSpecs/0/template/spec/terminationGracePeriod", 150),
    (
        "RayJob",
        "train",
        "spec/rayClusterSpec/headGroupSpec/template/spec/containers/0/securityContext/runAsNonRot",
        True,
    ),
    ("RayCluster", "ecgmoe", "spec/workerGroupSpecs/0/replica", 2),
    ("RayService", "serve", "spec/serveConfig", ""),
    ("ClusterQueue", "ecgmoe", "spec/cohort", "all"),
    ("ClusterQueue", "ecgmoe", "spec/queueingStrategy", "FIFO"),
    ("LocalQueue", "ecgmoe", "spec/clusterqueue", "ecgmoe"),
    ("ResourceFlavor", "ecgmoe-gpu", "spec/nodeTaint", []),
    ("NetworkPolicy", "default-deny", "spec/policyType", ["Ingress"]),
    ("PersistentVolumeClaim", "ecgmoe-shared", "spec/accessModes", "ReadWriteMany"),
    ("Deployment", "mlflow", "spec/template/spec/automountServiceAccountTokens", False),
    ("ConfigMap", "ecgmoe-environment", "data/ECGMOE_SHARED_MOUNT", 1),
    ("RayJob", "train", "metadata/lables", {"app.kubernetes.io/component": "train"}),
    ("RayJob", "train", "metadata/labels/app.kubernetes.io~1component", True),
    ("RayJob", "train", "specs", {}),
    ("RayCluster", "ecgmoe", "spec/headGroupSpec/template/metadata/lables", {"ray.io/node-type": "head"}),
    ("NetworkPolicy", "default-deny", "metadata/lables", {}),
    ("PodMonitor", "ray-heads", "spec/selectors", {}),
    ("PodMonitor", "ray-heads", "metadata/lables", {}),
    ("PodMonitor", "ray-heads", "specs", {}),
    ("PodMonitor", "ray-heads", "apiVersion", "monitoring.coreos.com/v9"),
    ("PrometheusRule", "ecgmoe", "apiVersion", "monitoring.coreos.com/v9"),
    ("PrometheusRule", "ecgmoe", "spec/groups/0/rules/0/labels/severity", 1),
    ("PrometheusRule", "ecgmoe", "spec/groups/0/rules/0/expression", "1"),
]


@pytest.mark.parametrize(("kind", "name", "path", "value"), BROKEN, ids=[f"{one[0]}-{one[2]}" for one in BROKEN])
def test_a_broken_document_is_refused(kind: str, name: str, path: str, value: Any) -> None:
    require_crds()
    whole = {identity(document): document for document in documents("multi-node-spot")}[kind, name]
    check(whole)
    with pytest.raises(jsonschema.ValidationError):
        check(changed(whole, path, value))


def test_a_broken_file_fails_its_overlay(tmp_path: Path) -> None:
    """From the file on, as somebody would break it."""
    require_crds()
    shutil.copytree(cluster_folder(), tmp_path / "cluster")
    job = tmp_path / "cluster" / "base" / "rayjob-train.yaml"
    job.write_text(job.read_text().replace("  backoffLimit: 5", "  backOffLimit: 5"))
    with pytest.raises(jsonschema.ValidationError, match="backOffLimit"):
        for document in rendered(tmp_path / "cluster" / "overlays" / "single-gpu-node"):
            check(document)


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubectl_renders_the_same(name: str) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    version = json.loads(_kubectl("version", "--client", "--output", "json"))
    if version.get("kustomizeVersion", "v0") < "v5":
        pytest.skip(f"this kubectl renders with kustomize {version.get('kustomizeVersion', 'of old')}")
    theirs = load(_kubectl("kustomize", str(cluster_folder() / "overlays" / name)))
    key = identity
    assert sorted(documents(name), key=key) == sorted(theirs, key=key)


def _kubectl(*arguments: str) -> str:
    return subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=60, check=True).stdout


def test_images_of_a_registry_of_ones_own(tmp_path: Path) -> None:
    shutil.copytree(cluster_folder(), tmp_path / "cluster")
    folder = tmp_path / "cluster" / "overlays" / "single-gpu-node"
    file = folder / "kustomization.yaml"
    file.write_text(file.read_text().replace("newName: ecgmoe}", "newName: registry.example/ecgmoe}"))
    images = [line.strip() for line in yaml.safe_dump(rendered(folder)).splitlines() if "image: ecgmoe" in line]
    assert images == []
    assert yaml.safe_dump(rendered(folder)).count("image: registry.example/ecgmoe:gpu") == 3


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("namePrefix: my-\n", "namePrefix is not known here"),
        ("patches:\n- {target: {kind: RayJob, name: other}, patch: '[]'}\n", "fits no document"),
        (
            "patches:\n- {target: {kind: RayJob}, patch: '[{op: replace, path: /spec/none, value: 1}]'}\n",
            "has no /spec/none",
        ),
        ("patches:\n- {target: {kind: RayJob}, patch: '[{op: move, path: /spec/entrypoint}]'}\n", "'move'"),
        ("resources: [../../base, ../../base]\n", "twice"),
        ("configMapGenerator:\n- {name: a, literals: [A=1]}\n", "disableNameSuffixHash"),
    ],
)
def test_what_the_renderer_does_not_know_is_refused(tmp_path: Path, text: str, match: str) -> None:
    shutil.copytree(cluster_folder(), tmp_path / "cluster")
    folder = tmp_path / "cluster" / "overlays" / "mine"
    folder.mkdir()
    resources = "" if "resources" in text else "resources: [../../base]\n"
    (folder / "kustomization.yaml").write_text(resources + text)
    with pytest.raises(ValueError, match=match):
        rendered(folder)
