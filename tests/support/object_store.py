"""A real S3 server (moto's) on loopback, a process of its own, as the environment of a job."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import s3fs

from ecgmoe.s3 import ObjectStore

BUCKET = "ecg"


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def object_store(log: Path, **more: str) -> Iterator[dict[str, str]]:
    """Serve S3 with an empty bucket `BUCKET`; yields the environment that leads there, which this process has meanwhile.

    Args:
        log: what the server prints.
        more: environment of the server itself.
    """
    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "of no value",
        "AWS_REGION": "us-east-1",
        # Nobody asks the network for credentials or for a profile of this machine's owner.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    before = {name: os.environ.get(name) for name in environment}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **more})
    try:
        os.environ.update(environment)
        end = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        s3fs.S3FileSystem(skip_instance_cache=True).call_s3("create_bucket", Bucket=BUCKET)
        yield environment
    finally:
        server.kill()
        server.wait(30)
        # A process keeps its connection for good, and the next server of these tests is another one.
        ObjectStore.clear_instance_cache()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def objects() -> dict[str, int]:
    """Bytes of every object of the bucket by key, past all caches."""
    listed = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False).find(BUCKET, detail=True)
    return {name.removeprefix(f"{BUCKET}/"): entry["size"] for name, entry in listed.items()}


def uploads() -> list[str]:
    """Keys of uploads in parts that were neither finished nor aborted."""
    listed = s3fs.S3FileSystem(skip_instance_cache=True).call_s3("list_multipart_uploads", Bucket=BUCKET)
    return [each["Key"] for each in listed.get("Uploads", [])]
