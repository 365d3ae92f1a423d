"""A folder on a local disk, a mount or an object store, with atomic writes. All stages write through it."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.spec import AbstractBufferedFile

from ecgmoe.filesystem import StorageError, filesystem, is_local, refused_write

__all__ = ["StorageError", "Store", "digest_of", "file_stamp"]

_BUCKETS = ("s3://", "s3a://", "gs://", "gcs://", "abfs://", "abfss://", "az://")
"""Stores of objects, which know no folders."""


class Store:
    """Files under one root.

    Args:
        root: local path or fsspec URL. Local paths become absolute, because workers have another working directory.
    """

    def __init__(self, root: str | Path) -> None:
        text = str(root)
        self.local = is_local(text)
        self.root = str(Path(text).expanduser().resolve()) if self.local else text.rstrip("/")
        self._fs, self._base = filesystem(self.root)

    def __truediv__(self, name: str) -> Store:
        return Store(f"{self.root}/{name}")

    @property
    def fsspec(self) -> Any:
        """The file system, for a library that writes by itself."""
        return self._fs

    def path(self, name: str) -> str:
        """Full path or URL of a file in this folder."""
        return f"{self.root}/{name}"

    def exists(self, name: str = "") -> bool:
        """Whether the file (or, without a name, the folder) is there."""
        return self._fs.exists(f"{self._base}/{name}" if name else self._base)

    def sizes(self) -> dict[str, int]:
        """Bytes of the finished files directly in this folder, by name, sorted; temporary files are left out."""
        if not self._fs.exists(self._base):
            return {}
        try:
            entries = self._fs.ls(self._base, detail=True)
        except FileNotFoundError:
            # Not the folder: another process gave a temporary file its name, or removed one, in this moment.
            entries = self._fs.ls(self._base, detail=True)
        # Some tools make an object of the folder's own name, to show that it is there.
        below = (entry for entry in entries if entry["name"].rstrip("/") != self._base)
        sizes = {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry["size"] for entry in below}
        return {name: sizes[name] for name in sorted(sizes) if not name.startswith(".")}

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            FileNotFoundError: it is not there.
        """
        return int(self._fs.info(f"{self._base}/{name}")["size"])

    def names(self) -> list[str]:
        """The names of `sizes`."""
        return list(self.sizes())

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file that appears under its name only when the block ends without an error.

        Raises:
            StorageError: no space left, no permission or a read-only file system.
        """
        target = f"{self._base}/{name}"
        # An object store shows a file only once it is closed; a local file system needs the rename.
        partial = f"{target.rsplit('/', 1)[0]}/.{target.rsplit('/', 1)[1]}.{uuid.uuid4().hex}" if self.local else target
        try:
            # There are no folders in a bucket, and s3fs would make the bucket itself.
            if not self.root.startswith(_BUCKETS):
                self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            file = self._fs.open(partial, "wb")
        except OSError as error:
            raise refused_write(error, self.path(name), "choose another folder") from error
        try:
            yield file
            if self.local:
                file.flush()
                os.fsync(file.fileno())
            file.close()
            if self.local:
                Path(partial).replace(target)
        except BaseException as error:
            with contextlib.suppress(Exception):
                _abandon(file)
            if self.local:
                with contextlib.suppress(OSError):
                    Path(partial).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise refused_write(error, self.path(name)) from error
            raise

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as indented JSON, atomically."""
        with self.writing(name) as file:
            file.write((json.dumps(value, indent=2) + "\n").encode())

    def write_text(self, name: str, text: str) -> None:
        """Write UTF-8 text, atomically."""
        with self.writing(name) as file:
            file.write(text.encode())

    def require_writable(self) -> None:
        """Find out now, not after hours, whether anything can be written here.

        Raises:
            StorageError: it cannot.
        """
        self.write_text(".writable", "")
        self.remove(".writable")

    def read_text(self, name: str) -> str:
        """Read UTF-8 text."""
        return self._fs.cat_file(f"{self._base}/{name}").decode()

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            StorageError: the file is not there or is not JSON.
        """
        try:
            return json.loads(self._fs.cat_file(f"{self._base}/{name}"))
        except FileNotFoundError as error:
            raise StorageError(f"{self.path(name)} is missing") from error
        except ValueError as error:
            raise StorageError(f"{self.path(name)} is not JSON ({error}): it was written half or edited") from error

    def reading(self, name: str) -> IO[bytes]:
        """Open a file for reading; the caller closes it."""
        return self._fs.open(f"{self._base}/{name}", "rb")

    def download(self, name: str, target: Path) -> None:
        """Copy a file to the local disk."""
        self._fs.get_file(f"{self._base}/{name}", str(target))

    @contextlib.contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file open for reading.

        Raises:
            StorageError: the file is not there, or it is torn, which may show only when a part of it is read.
        """
        # Arrow asks for what it needs in few large pieces; reading ahead would fetch 50 MB for each of them.
        options = {} if self.local else {"cache_type": "none"}
        try:
            with (
                self._fs.open(f"{self._base}/{name}", "rb", **options) as source,
                pq.ParquetFile(source, pre_buffer=True) as file,
            ):
                yield file
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise StorageError(f"{self.path(name)} is missing") from error
        except PermissionError as error:
            raise StorageError(f"cannot read {self.path(name)}: no permission: change its mode") from error
        except (OSError, pa.ArrowInvalid) as error:
            raise StorageError(
                f"{self.path(name)} is not a whole Parquet file ({error}): delete it and run the stage again"
            ) from error

    def sha256(self, name: str) -> str:
        """Digest of a file's bytes."""
        digest = hashlib.sha256()
        with self._fs.open(f"{self._base}/{name}", "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()

    def remove_partial(self) -> None:
        """Delete what writers that were killed left in this folder. Nobody may be writing there."""
        if self.local:
            if self.exists():
                for path in Path(self.root).glob(".*.????????????????????????????????"):
                    path.unlink(missing_ok=True)
        elif abort := getattr(self._fs, "abort_uploads", None):
            # Not every store can list them, or lets us; they are never seen, and a rule of the bucket can expire them.
            with contextlib.suppress(StorageError):
                abort(self._base)

    def remove_partial_of(self, name: str) -> None:
        """Delete what killed writers left of one file; an object store shows nothing of it. Nobody may be writing it."""
        if self.local:
            for path in Path(self.root).glob(f".{glob.escape(name)}.{'?' * 32}"):
                path.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Delete a file or a folder; nothing happens where there is none."""
        if self.exists(name):
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(f"{self._base}/{name}", recursive=True)


def _abandon(file: Any) -> None:
    """Close a file without making an object of what was written: closing it as usual would show the half as a whole."""
    if not isinstance(file, AbstractBufferedFile):
        file.close()
        return
    file.closed = True
    # Parts that were sent already are kept, and cost money, until somebody says that they are not wanted.
    file.discard()


def file_stamp(path: str) -> list[Any] | None:
    """Size and time (or entity tag) of a file, None where there is none: whether a table has changed since."""
    files, inner = filesystem(path)
    try:
        info = files.info(inner)
    except FileNotFoundError:
        return None
    times = (info.get(name) for name in ("mtime", "ETag", "etag", "blob_id", "LastModified", "updated", "created"))
    return [info["size"], str(next((time for time in times if time is not None), ""))]


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, the same in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
