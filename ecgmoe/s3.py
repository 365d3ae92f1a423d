"""S3 and what speaks its protocol, through s3fs, with every failure as one line that says what to do.

Where and who is told by the environment as every tool of AWS reads it: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_PROFILE ... Imported only where such a URL is used: s3fs is an extra.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import s3fs
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.asyn import sync_wrapper
from fsspec.exceptions import FSTimeoutError

from ecgmoe.filesystem import StorageError

_CREDENTIALS = (
    "NoCredentials",
    "PartialCredentials",
    "CredentialRetrieval",
    "NoAuthToken",
    "TokenRetrieval",
    "Profile",
)
_WRITING = ("put_", "create_", "upload_", "complete_", "delete_", "abort_", "copy_")


class ObjectStore(s3fs.S3FileSystem):
    """s3fs with our messages; `FileNotFoundError` for a missing object stays what it is."""

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return await super()._call_s3(method, *arguments, **options)
        except Exception as error:
            bucket = options.get("Bucket", "")
            name = f"s3://{bucket}/{options.get('Key') or options.get('Prefix') or ''}".rstrip("/")
            told = explained(error, f"cannot {'write' if method.startswith(_WRITING) else 'read'} {name}", bucket)
            if told is None:
                raise
            raise told from error

    # s3fs binds this to its own `_call_s3`; files are written through it.
    call_s3 = sync_wrapper(_call_s3)

    async def _abort_uploads(self, path: str) -> None:
        bucket, key, _ = self.split_path(path)
        more = True
        while more:
            found = await self._call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key.rstrip('/')}/")
            for upload in found.get("Uploads", []):
                await self._abort_mpu(bucket, upload["Key"], upload["UploadId"])
            more = found.get("IsTruncated", False)

    abort_uploads = sync_wrapper(_abort_uploads)


def explained(error: BaseException, what: str, bucket: str) -> StorageError | None:
    """One line for what an S3 client raises; None for an object that is not there, and for what is no failure of a store.

    Args:
        error: of botocore or, translated, of s3fs.
        what: was tried, "cannot read s3://...".
        bucket: its name.
    """
    cause = error if isinstance(error, ClientError) else error.__cause__
    code = cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""
    if code == "NoSuchBucket":
        return StorageError(
            f"{what}: there is no bucket {bucket} at {_endpoint()}: create it, or correct its name or AWS_ENDPOINT_URL"
        )
    if isinstance(error, PermissionError) or code in (
        "403",
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
    ):
        return StorageError(
            f"{what}: the object store at {_endpoint()} refuses it ({code or error}): check AWS_ACCESS_KEY_ID, "
            f"AWS_SECRET_ACCESS_KEY and what they may do in the bucket {bucket}"
        )
    if isinstance(error, FileNotFoundError):
        return None
    if isinstance(error, BotoCoreError) and type(error).__name__.startswith(_CREDENTIALS):
        return StorageError(
            f"{what}: no credentials for it ({error}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, on a cluster in the "
            "environment of every node's `ray start`"
        )
    if type(error).__name__ in ("ParamValidationError", "InvalidRegionError"):
        reason = " ".join(str(error).split()).partition(": Bucket name must")[0]
        return StorageError(f"{what}: {reason}: correct the URL or AWS_REGION")
    if isinstance(error, (BotoCoreError, FSTimeoutError, asyncio.TimeoutError)):
        return StorageError(
            f"{what}: the object store at {_endpoint()} does not answer ({error or type(error).__name__}): check "
            "AWS_ENDPOINT_URL and the network, then run the same command again, what is finished is kept"
        )
    if isinstance(error, (ClientError, OSError)) and not isinstance(error, (StorageError, FileExistsError)):
        return StorageError(
            f"{what}: the object store at {_endpoint()} failed ({code or error}): run the same command again, what is "
            "finished is kept"
        )
    return None


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
