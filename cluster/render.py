"""Render an overlay as `kubectl kustomize` does, for machines without it: `python cluster/render.py local`.

Only what these manifests use is known, and anything else is refused: resources, components, namespace, images, patches
(JSON 6902 with a target, or a merge that names its object and replaces lists), and configMapGenerator with literals and
without a suffix. Tests compare the result with that of kubectl, where there is one.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

OVERLAYS = Path(__file__).resolve().parent / "overlays"
CLUSTER_WIDE = ("Namespace", "ClusterQueue", "ResourceFlavor")
KNOWN = {"apiVersion", "kind", "resources", "components", "namespace", "images", "patches", "configMapGenerator"}
KNOWN |= {"generatorOptions"}

Document = dict[str, Any]


def load(text: str) -> list[Any]:
    """The documents of a YAML file, by the parser in C where PyYAML was built with it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [each for each in yaml.load_all(text, loader) if each is not None]


def rendered(folder: Path) -> list[Document]:
    """The documents of a folder with a kustomization.yaml.

    Raises:
        ValueError: it asks for something that this does not know, or a patch fits nothing.
    """
    return _apply(folder.resolve(), [])


def overlay(name: str) -> list[Document]:
    """The documents of cluster/overlays/NAME.

    Raises:
        ValueError: there is no such overlay.
    """
    there = sorted(each.parent.name for each in OVERLAYS.glob("*/kustomization.yaml"))
    if name not in there:
        raise ValueError(f"there is no overlay {name!r}: choose one of {', '.join(there)}")
    return rendered(OVERLAYS / name)


def _apply(folder: Path, before: list[Document]) -> list[Document]:
    """What a kustomization makes of the documents that it is given (a component) and of its own."""
    file = folder / "kustomization.yaml"
    told = load(file.read_text())[0]
    if unknown := set(told) - KNOWN:
        raise ValueError(
            f"{file}: {', '.join(sorted(unknown))} is not known here: use one of {', '.join(sorted(KNOWN))}"
        )
    documents = list(before)
    for each in told.get("resources", []):
        path = folder / each
        found = rendered(path) if path.is_dir() else load(path.read_text())
        documents += found
    documents += [
        _config_map(each, told.get("generatorOptions", {}), file) for each in told.get("configMapGenerator", [])
    ]
    for each in told.get("components", []):
        documents = _apply(folder / each, documents)
    for patch in told.get("patches", []):
        _patch(documents, patch, folder)
    if namespace := told.get("namespace"):
        for document in documents:
            if document["kind"] == "Namespace":
                document["metadata"]["name"] = namespace
            elif document["kind"] not in CLUSTER_WIDE:
                document["metadata"]["namespace"] = namespace
    for image in told.get("images", []):
        for container in _containers(documents):
            _rename(container, image)
    names = [identity(each) for each in documents]
    if twice := {each for each in names if names.count(each) > 1}:
        raise ValueError(f"{file}: {sorted(twice)} are there twice")
    return documents


def identity(document: Document) -> tuple[str, str]:
    """Its kind and name."""
    return document["kind"], document["metadata"]["name"]


def _config_map(told: Mapping[str, Any], options: Mapping[str, Any], file: Path) -> Document:
    if not options.get("disableNameSuffixHash") or set(told) - {"name", "literals"}:
        raise ValueError(f"{file}: a ConfigMap has a name, literals and disableNameSuffixHash here")
    data = dict(each.split("=", 1) for each in told["literals"])
    metadata: Document = {"name": told["name"]}
    if labels := options.get("labels"):
        metadata["labels"] = dict(labels)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _patch(documents: list[Document], patch: Mapping[str, Any], folder: Path) -> None:
    text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
    change = load(text)[0]
    if isinstance(change, list):
        target = patch["target"]
        chosen = [one for one in documents if all(value == _named(one, key) for key, value in target.items())]
    else:
        chosen = [one for one in documents if identity(one) == identity(change)]
    if not chosen:
        raise ValueError(f"{folder}/kustomization.yaml: a patch fits no document: {text.strip()[:200]}")
    for one in chosen:
        if isinstance(change, list):
            for operation in change:
                _operate(one, operation)
        else:
            _merge(one, change)


def _named(document: Document, key: str) -> Any:
    if key not in ("kind", "name"):
        raise ValueError(f"target.{key} of a patch is not known here: use kind and name")
    return document["kind"] if key == "kind" else document["metadata"]["name"]


def _operate(document: Document, operation: Mapping[str, Any]) -> None:
    """One operation of RFC 6902: add, replace or remove."""
    kind, path = operation["op"], operation["path"]
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in path.strip("/").split("/")]
    place: Any = document
    try:
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        at: Any = last
        if isinstance(place, list):
            at = len(place) if last == "-" else int(last)
        if kind in ("replace", "remove"):
            place[at]  # it has to be there
        if kind == "remove":
            del place[at]
        elif kind == "add" and isinstance(place, list):
            place.insert(at, copy.deepcopy(operation["value"]))
        elif kind in ("add", "replace"):
            place[at] = copy.deepcopy(operation["value"])
        else:
            raise ValueError(f"op {kind!r} of a patch is not known here: use add, replace or remove")
    except (KeyError, IndexError) as error:
        raise ValueError(f"{'/'.join(identity(document))} has no {path}, which a patch wants to {kind}") from error


def _merge(document: Document, change: Document) -> None:
    for key, value in change.items():
        if value is None:
            document.pop(key, None)
        elif isinstance(value, dict) and isinstance(document.get(key), dict):
            _merge(document[key], value)
        elif isinstance(value, list) and any(isinstance(each, dict) for each in [*value, *document.get(key, [])]):
            raise ValueError(f"{key}: a list of objects is merged by its keys: write a JSON 6902 patch instead")
        else:
            document[key] = copy.deepcopy(value)


def _containers(value: Any) -> Iterator[Document]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("containers", "initContainers") and isinstance(inner, list):
                yield from inner
            yield from _containers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _containers(inner)


def _rename(container: Document, image: Mapping[str, str]) -> None:
    name, _, tag = container["image"].partition(":")
    if name == image["name"]:
        container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"


if __name__ == "__main__":
    try:
        yaml.safe_dump_all(overlay(sys.argv[1] if len(sys.argv) > 1 else ""), sys.stdout, sort_keys=False)
    except ValueError as error:
        sys.exit(f"error: {error}")
