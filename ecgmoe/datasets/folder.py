"""Which files of a folder are recordings, and which look like one that cannot be read."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ecgmoe.ecg.wfdb_file import MAX_HEADER_BYTES, printable
from ecgmoe.filesystem import StorageError, filesystem

_EXTENSIONS = ("hea", "mat", "dat")


class Listing(NamedTuple):
    """Attributes: paths: of recordings under root, sorted; excluded: (path, reason) of what looks like one."""

    paths: list[str]
    excluded: list[tuple[str, str]]


def list_records(root: str) -> Listing:
    """Every WFDB header (without its extension) and every MATLAB file without a header, of all folders below root.

    Linked folders are searched too, each folder once: one that is reached in several ways counts where it really lies.

    Args:
        root: folder or URL.
    """
    system, base = filesystem(root)
    local = isinstance(system, LocalFileSystem)
    files, excluded = _local_files(base) if local else (_remote_files(system, base), [])
    stems: dict[str, set[str]] = defaultdict(set)
    for path in files:
        stem, _, extension = path.rpartition(".")
        stems[extension].add(stem)
    headers = stems.pop("hea", set())
    # Beside a header a MATLAB file holds that record's signals.
    alone = stems.pop("mat", set()) - headers
    known = headers | alone
    for extension in sorted(stems, key=lambda name: _EXTENSIONS.index(name.lower())):
        orphans = stems[extension] - known
        if extension.lower() == "dat":
            orphans = _unnamed(system, base, orphans, headers, extension)
            reason = f"its signal file .{extension} has no header .hea beside it"
        else:
            reason = f"its file extension .{extension} is not in lower case: rename it to .{extension.lower()}"
        known |= orphans
        excluded += [(printable(stem), reason) for stem in orphans]
    return Listing(sorted([*headers, *(f"{stem}.mat" for stem in alone)]), sorted(excluded))


def _is_of_record(name: str) -> bool:
    return name.lower().endswith(tuple(f".{extension}" for extension in _EXTENSIONS))


def _remote_files(system: fsspec.AbstractFileSystem, base: str) -> list[str]:
    prefix = f"{base.rstrip('/')}/"
    return [path.removeprefix(prefix) for path in system.find(base) if _is_of_record(path)]


def _local_files(root: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Files of records under root, and folders and links that could not be searched, with the reason."""
    files: list[str] = []
    excluded: list[tuple[str, str]] = []
    searched: set[tuple[int, int]] = set()
    above = {_identity(str(folder)) for folder in Path(root).resolve().parents}
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        # All real folders come first, so that a link never takes their place.
        linked = not folders
        folder = links.pop(0) if linked else folders.pop()
        try:
            identity = _identity(f"{root}/{folder}")
            if identity in searched:
                continue
            if linked and identity in above:
                excluded.append((printable(folder), "a link to a folder that holds the whole dataset is not searched"))
                continue
            searched.add(identity)
            entries = sorted(os.scandir(f"{root}/{folder}"), key=lambda entry: entry.name)
        except OSError as error:
            excluded.append((printable(folder) or ".", f"the folder cannot be searched: {error.strerror}"))
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}".removeprefix("/")
            mode = _target_mode(entry) if entry.is_symlink() else None
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif mode is not None and stat.S_ISDIR(mode):
                links.append(path)
            elif _is_of_record(entry.name):
                files.append(path)
            elif mode == 0:
                excluded.append((printable(path), "a link that leads nowhere"))
    return files, excluded


def _identity(folder: str) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _target_mode(link: os.DirEntry[str]) -> int:
    """Kind of file that a link leads to; 0 where it leads nowhere."""
    try:
        return link.stat().st_mode
    except OSError:
        return 0


def _unnamed(
    system: fsspec.AbstractFileSystem, base: str, orphans: set[str], headers: set[str], extension: str
) -> set[str]:
    """Signal files that no header of their folder names: a record may have several, or one of another name."""
    folders = {stem.rpartition("/")[0] for stem in orphans}
    named: set[str] = set()
    for header in headers:
        folder = header.rpartition("/")[0]
        if folder in folders:
            named |= {f"{folder}/{name}".removeprefix("/") for name in _first_words(system, f"{base}/{header}.hea")}
    return {stem for stem in orphans if f"{stem}.{extension}" not in named}


def _first_words(system: fsspec.AbstractFileSystem, path: str) -> set[str]:
    """First word of each line of a header, among them the names of its signal files. A pipe is not opened."""
    if not system.isfile(path):
        return set()
    try:
        content = system.cat_file(path, end=MAX_HEADER_BYTES)
    except StorageError:
        raise
    except OSError:
        return set()
    return {line.split()[0].decode("utf-8", "surrogateescape") for line in content.splitlines() if line.split()}
