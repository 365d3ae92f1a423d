"""Files by path or URL: one way to their file system, and one line with a remedy for what can go wrong there."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec


class StorageError(OSError):
    """The storage refused a read or a write: the message names the path and the remedy."""


def is_local(path: str) -> bool:
    """Whether this is a path of this machine (a mount counts), not a URL."""
    return "://" not in path


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path inside it.

    Listings are not cached: other processes write there meanwhile, and their files would not be seen.

    Raises:
        StorageError: a package for this kind of URL is missing, or the kind is not known.
    """
    try:
        if path.startswith(("s3://", "s3a://")):
            from ecgmoe.s3 import ObjectStore

            store = ObjectStore(use_listings_cache=False)
            return store, store._strip_protocol(path)
        return fsspec.core.url_to_fs(path, **({} if is_local(path) else {"use_listings_cache": False}))
    except ImportError as error:
        if path.startswith("s3"):
            raise missing_package(path, error.name or "s3fs") from error
        raise StorageError(f"{path}: {error}: install what this URL needs on every node") from error
    except ValueError as error:
        # fsspec's own words for an unknown protocol.
        raise StorageError(f"{path}: {error}: give a local path or s3://bucket/path") from error


def missing_package(path: str, package: str) -> StorageError:
    """What to say where the extra for object stores is not installed."""
    return StorageError(
        f"{path} needs the package {package}, which is not installed: install the extra s3 on every node "
        "(docker/install.sh .venv s3, or pip install 'ecgmoe[s3]')"
    )


_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again, what is finished is kept",
    errno.EDQUOT: "the quota of this disk is used up: free some space and run the same command again, what is "
    "finished is kept",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "no permission to write there: choose another folder or change its mode",
    errno.EPERM: "no permission to write there: choose another folder or change its mode",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another folder",
    errno.EEXIST: "a part of the path is a file, not a folder: choose another folder",
}


def refused_write(error: OSError, path: str, otherwise: str | None = None) -> OSError:
    """The same failure with the path and what to do about it; `otherwise` for one that has no remedy of its own."""
    if isinstance(error, StorageError):
        return error
    remedy = _REMEDIES.get(error.errno or 0) or (otherwise and f"{error.strerror or error}: {otherwise}")
    return StorageError(f"cannot write {path}: {remedy}") if remedy else error


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder on this machine's own disk that is gone afterwards.

    Raises:
        StorageError: there is no space for it.
    """
    try:
        # Which folder that is, is found out by writing there: on a full disk this already fails.
        with tempfile.TemporaryDirectory(prefix="ecgmoe-") as folder:
            yield Path(folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        if full or (isinstance(error, FileNotFoundError) and "temporary directory" in str(error)):
            place = tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")
            raise StorageError(
                f"the temporary folder {place} of this machine cannot be written ({error.strerror or error}): free some "
                "space there, or set TMPDIR to a folder on another disk"
            ) from error
        raise
