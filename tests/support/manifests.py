"""Check manifests as the API server would, and more strictly: what it would drop in silence is refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from jobs import REPOSITORY
from render import load, overlay

CRDS = REPOSITORY.parent / "shared" / "kubernetes" / "crds"
KUBERNETES = "1.34"
WITH_KUEUE = ("single-gpu-node", "multi-node-spot")
OVERLAYS = ("local", "single-gpu-node", "multi-node-spot")

Document = dict[str, Any]


def _strings(*names: str) -> Document:
    return {name: {"type": "string"} for name in names}


def _object(properties: Document, *required: str) -> Document:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _list(items: Document) -> Document:
    return {"type": "array", "items": items, "minItems": 1}


_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA = _object({**_strings("name", "namespace"), "labels": _TEXTS, "annotations": _TEXTS}, "name")
"""What the manifests of own kinds say about themselves; the API server knows more, and drops what it does not know."""

_SELECTOR = _object({"matchLabels": _TEXTS}, "matchLabels")
_RELABELING = _object(
    {"sourceLabels": _list({"type": "string"}), **_strings("targetLabel")}, "sourceLabels", "targetLabel"
)
_ENDPOINT = _object(
    {**_strings("port", "interval"), "honorLabels": {"type": "boolean"}, "relabelings": _list(_RELABELING)}, "port"
)
_RULE = _object(
    {**_strings("alert", "expr", "for"), "labels": _TEXTS, "annotations": _TEXTS},
    "alert",
    "expr",
)
_SPECS = {
    "PodMonitor": _object(
        {
            "namespaceSelector": _object({"matchNames": _list({"type": "string"})}, "matchNames"),
            "selector": _SELECTOR,
            "podMetricsEndpoints": _list(_ENDPOINT),
        },
        "selector",
        "podMetricsEndpoints",
    ),
    "PrometheusRule": _object(
        {"groups": _list(_object({**_strings("name"), "rules": _list(_RULE)}, "name", "rules"))}, "groups"
    ),
}
PROMETHEUS = {
    kind: _object(
        {
            "apiVersion": {"const": "monitoring.coreos.com/v1"},
            "kind": {"const": kind},
            "metadata": METADATA,
            "spec": spec,
        },
        "apiVersion",
        "kind",
        "metadata",
        "spec",
    )
    for kind, spec in _SPECS.items()
}
"""The Prometheus operator's schemas are not at hand: the part of its API that these manifests use, by its documentation."""


def require_crds() -> None:
    """Skip where the schemas are not."""
    if not CRDS.is_dir():
        pytest.skip(f"the schemas of KubeRay and Kueue are not there ({CRDS})")


def check(document: Document) -> None:
    """Hold a document to the schema of its kind and version.

    Raises:
        jsonschema.ValidationError: it breaks it, or has a field that the schema does not know.
        LookupError: there is no schema for it.
    """
    group = document["apiVersion"].partition("/")[0]
    if group in ("ray.io", "kueue.x-k8s.io"):
        jsonschema.Draft202012Validator(_crd(document["kind"], document["apiVersion"])).validate(document)
    elif group == "monitoring.coreos.com":
        jsonschema.Draft202012Validator(PROMETHEUS[document["kind"]]).validate(document)
    else:
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.utils.SchemaNotFoundError as error:
            raise LookupError(error.message) from error


@cache
def documents(name: str) -> list[Document]:
    """Those of an overlay; not to be changed."""
    return overlay(name)


@cache
def _definitions(filename: str, version: str) -> Any:
    return _contents(filename, version)


_contents = kubernetes_validate.utils.schema_contents
# It reads its definitions anew for each document.
kubernetes_validate.utils.schema_contents = _definitions


@cache
def _crd(kind: str, api_version: str) -> Document:
    group, _, version = api_version.partition("/")
    for path in CRDS.glob(f"{group}_*.yaml"):
        definition = load(path.read_text())[0]
        if definition["spec"]["names"]["kind"] != kind:
            continue
        for each in definition["spec"]["versions"]:
            if each["name"] == version and each["served"]:
                schema = _strict(each["schema"]["openAPIV3Schema"])
                # Every object has these; the definition leaves them to the API server.
                schema["properties"]["metadata"] = METADATA
                schema["required"] = sorted({*schema.get("required", []), "metadata", "spec"})
                return schema
    raise LookupError(f"there is no definition of {kind} {api_version} in {CRDS}")


def _strict(schema: Document) -> Document:
    """The same schema as JSON Schema, with unknown fields refused and Kubernetes' own keywords understood."""
    schema = {key: value for key, value in schema.items() if not key.startswith("x-")} | {
        key: value for key, value in schema.items() if key == "x-kubernetes-preserve-unknown-fields"
    }
    if "properties" in schema:
        schema["properties"] = {name: _strict(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        schema["items"] = _strict(schema["items"])
    if schema.pop("nullable", False) and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    return schema


def ray_specs(document: Document) -> Iterator[Document]:
    """The cluster specification in a RayCluster, RayJob or RayService."""
    spec = document.get("spec", {})
    if document["kind"] == "RayCluster":
        yield spec
    elif document["kind"] == "RayJob":
        yield spec["rayClusterSpec"]
    elif document["kind"] == "RayService":
        yield spec["rayClusterConfig"]


def pod_specs(document: Document) -> Iterator[tuple[str, Document]]:
    """Every pod specification in it, by where it is."""

    def walk(value: Any, where: str) -> Iterator[tuple[str, Document]]:
        if isinstance(value, dict):
            if isinstance(value.get("containers"), list):
                yield where, value
            for key, inner in value.items():
                yield from walk(inner, f"{where}/{key}")
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from walk(inner, f"{where}/{number}")

    yield from walk(document.get("spec", {}), f"{document['kind']}/{document['metadata']['name']}")


def changed(document: Document, path: str, value: Any) -> Document:
    """A copy with another value at a path such as spec/entrypoint; ~1 is a slash in a name."""
    copied = copy.deepcopy(document)
    *way, last = [part.replace("~1", "/") for part in path.split("/")]
    place: Any = copied
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[last] = value
    return copied


def cluster_folder() -> Path:
    return REPOSITORY / "cluster"


def of(name: str, kind: str) -> list[Document]:
    return [each for each in documents(name) if each["kind"] == kind]


def named(name: str, kind: str, one: str) -> Document:
    return next(each for each in of(name, kind) if each["metadata"]["name"] == one)


def quantity(value: str) -> float:
    """A Kubernetes quantity as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi|Ti)?", value).groups()  # type: ignore[union-attr]
    return float(number) * {None: 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


def gpus_of(group: Document) -> int:
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))


def cpus_of(groups: list[Document]) -> float:
    return sum(
        group["replicas"] * quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for group in groups
    )
