"""The Dockerfile: clean for hadolint, of the versions of constraints.txt, without root, secrets and a large context.

No container engine runs here: that it builds is not tested. The script that installs everything is the one of `make setup`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from jobs import REPOSITORY

DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, path], capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "Dockerfile"
    broken.write_text(DOCKERFILE.read_text().replace("USER 1000:100", "USER root"))
    assert "DL3002" in hadolint(broken).stdout


def instructions(name: str) -> list[str]:
    """Arguments of every instruction of a kind, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    return [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith(f"{name} ")]


def test_versions_are_those_of_constraints() -> None:
    pinned = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split())
    arguments = dict(one.split("=", 1) for one in instructions("ARG"))
    assert arguments["RAY"] == pinned["ray"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert arguments["VERSION"] == project["version"]
    assert set(arguments["EXTRAS"].split(",")) <= set(project["optional-dependencies"])
    # install.sh takes Python 3.11 first.
    assert all("-py311-" in one for one in instructions("FROM") if one.startswith("rayproject/ray:"))


def test_both_targets_are_installed_as_by_make_setup() -> None:
    assert "docker/install.sh $(VENV)" in (REPOSITORY / "Makefile").read_text()
    assert [one.startswith("docker/install.sh .venv") for one in instructions("RUN")].count(True) == 2
    assert "ecgmoe.training.warm_up" in (REPOSITORY / "docker" / "install.sh").read_text()
    stages = [one.split(" AS ")[1] for one in instructions("FROM")]
    assert stages[-2:] == ["cpu", "gpu"]


def test_the_image_for_cpus_brings_its_compiler() -> None:
    """Ray's base for CPUs has none, install.sh wants one, and so does the last stage, where the op is loaded."""
    stages = re.split(r"^FROM (.*) AS (.*)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    bases = dict(zip(stages[2::3], stages[1::3], strict=True))
    content = dict(zip(stages[2::3], stages[3::3], strict=True))
    assert bases["build-cpu"] == bases["cpu"] == "base-cpu"
    assert re.search(r"^RUN apt-get update && apt-get install .* g\+\+ ", content["base-cpu"], re.MULTILINE)


def test_a_target_ends_without_root_with_labels_and_a_health_check() -> None:
    stages = re.split(r"^FROM .* AS ", DOCKERFILE.read_text(), flags=re.MULTILINE)
    for stage in stages[-2:]:
        users = re.findall(r"^USER (.*)", stage, re.MULTILINE)
        assert users[-1] == "1000:100"
        assert "HEALTHCHECK" in stage
        for label in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{label}=" in stage


def test_nothing_secret_goes_in() -> None:
    named = [*instructions("ARG"), *instructions("ENV")]
    assert not [one for one in named if re.search("token|secret|password|key", one, re.IGNORECASE)]


def test_the_context_is_small_and_named(tmp_path: Path) -> None:
    """By the rules of .dockerignore: everything is left out, and what an image needs is let in by name."""
    rules = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    taken = [line[1:] for line in rules if line.startswith("!")]
    assert not {".git", "tests", "cluster", "docs", ".venv"} & set(taken)
    for name in taken:
        source, target = REPOSITORY / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif source.exists():
            shutil.copy(source, target)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    # All that setuptools and install.sh read.
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    for name in (
        project["readme"],
        *project["license-files"],
        "constraints.txt",
        "docker/install.sh",
        "ecgmoe/__init__.py",
    ):
        assert (tmp_path / name).is_file(), name
