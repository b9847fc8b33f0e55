"""Putting whole objects: at once or in parallel parts, and exclusively where the storage can.

Objects never go through an open stream, which publishes what it has when it fails. An exclusive put whose answer is
lost is sent again, by torchrelay, the driver or aiohttp, and then finds the name taken, by itself: so every put on S3,
Google Cloud and Azure carries a token, and a taken name with our token on it is our success. Elsewhere the content
decides, and only after a retry of torchrelay's.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torchrelay.contract.errors import StorageError
from torchrelay.contract.object_connection import Connection, TakenError
from torchrelay.contract.object_parts import in_parallel

_TOKEN = "torchrelay-put"  # noqa: S105 - the name of a metadata field
_ABORT_S = 5.0
_MOST_PARTS = 10_000
_SMALLEST_PART_BYTES = 5 * 2**20  # what S3 takes for all parts but the last

Views = list[memoryview]


def put(connection: Connection, key: str, chunks: Sequence[bytes | bytearray | memoryview], *, exclusive: bool) -> None:
    """Write an object, whole or not at all. Raises: FileExistsError if it is exclusive and the name is taken."""
    views = [memoryview(chunk).cast("B") for chunk in chunks]
    token = secrets.token_hex(16)
    if exclusive and not connection.exclusive:
        _refuse_existing(connection, key)
    try:
        _send(connection, key, views, token, mode="create" if exclusive and connection.exclusive else "overwrite")
    except TakenError as error:
        if not (exclusive and _is_ours(connection, key, token, views, error.tries)):
            raise


def _refuse_existing(connection: Connection, key: str) -> None:
    """Weaker than a conditional put: two writers at the same moment may both find the name free."""
    if connection.call("look at", key, "exists", key):
        raise TakenError(connection.where(key), tries=1)


def _send(connection: Connection, key: str, views: Views, token: str, mode: str) -> None:
    size_bytes = sum(view.nbytes for view in views)
    if connection.is_s3 and size_bytes > connection.limits.part_bytes:
        _send_parts(connection, key, views, token, mode)
        return
    named: dict[str, Any] = {"mode": mode} if connection.exclusive else {}
    if connection.is_s3:
        named |= {"chunksize": size_bytes + 1, "Metadata": {_TOKEN: token}}  # one put, whatever the size
    elif connection.protocol in ("gs", "gcs"):
        named |= {"metadata": {_TOKEN: token}}
    elif connection.is_azure:
        named |= {"content_settings": _azure_settings(token), "retry_total": 0}  # its own pauses are 15 s and more
    body = views[0].tobytes() if len(views) == 1 else b"".join(views)
    connection.call("write", key, "pipe_file", key, body, size_bytes=size_bytes, **named)


def _send_parts(connection: Connection, key: str, views: Views, token: str, mode: str) -> None:
    """S3's multipart upload: the object appears, whole, with the last request. At most `parallel` parts are copied."""
    bucket, name, _ = connection.fs.split_path(key)
    to: dict[str, Any] = {"Bucket": bucket, "Key": name}
    upload = connection.call("write", key, "call_s3", "create_multipart_upload", Metadata={_TOKEN: token}, **to)
    to["UploadId"] = upload["UploadId"]

    def send(numbered: tuple[int, Views]) -> dict[str, Any]:
        number, part = numbered
        body = b"".join(part)
        answer = connection.call(
            "write", key, "call_s3", "upload_part", PartNumber=number, Body=body, size_bytes=len(body), **to
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    size_bytes = sum(view.nbytes for view in views)
    part_bytes = max(connection.limits.part_bytes, _SMALLEST_PART_BYTES, -(-size_bytes // _MOST_PARTS))
    condition: dict[str, Any] = {"IfNoneMatch": "*"} if mode == "create" else {}
    try:
        sent = in_parallel(send, enumerate(cut(views, part_bytes), 1), connection.limits.parallel)
        to |= condition | {"MultipartUpload": {"Parts": sent}}
        connection.call("write", key, "call_s3", "complete_multipart_upload", **to)
    except (
        FileNotFoundError
    ) as error:  # NoSuchUpload: an earlier try completed it and its answer was lost, or it is gone
        if _token_of(connection, key) != token:
            raise StorageError(f"cannot write {connection.where(key)}: the storage lost the upload") from error
    except BaseException:
        _abort(connection, key, to)
        raise


def drop_uploads(connection: Connection, key: str, of: Callable[[str], bool]) -> None:
    """Abort the uploads to S3 in those folders directly below a key whose name is one `of`. Raises: StorageError."""
    bucket, prefix, _ = connection.fs.split_path(f"{key}/")
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    while True:
        found = connection.call("list", key, "call_s3", "list_multipart_uploads", **asked)
        for upload in found.get("Uploads") or []:
            if of(upload["Key"].removeprefix(prefix).partition("/")[0]):
                _abort(connection, key, {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]})
        if not found.get("IsTruncated"):
            return
        asked |= {"KeyMarker": found["NextKeyMarker"], "UploadIdMarker": found["NextUploadIdMarker"]}


def _abort(connection: Connection, key: str, to: dict[str, Any]) -> None:
    """Drop the parts that were sent; what cannot be dropped is left to the bucket's lifecycle rule."""
    with contextlib.suppress(Exception):  # the failure that led here is the one to tell
        connection.call("drop", key, "call_s3", "abort_multipart_upload", limit_s=_ABORT_S, **to)


def cut(views: Views, part_bytes: int) -> Iterator[Views]:
    """The bytes of all views in parts of `part_bytes`, the last one shorter, without copying."""
    part: Views = []
    room = part_bytes
    for whole in views:
        rest = whole
        while rest.nbytes:
            part.append(rest[:room])
            rest = rest[room:]
            room -= part[-1].nbytes
            if room == 0:
                yield part
                part, room = [], part_bytes
    if part:
        yield part


def _azure_settings(token: str) -> Any:
    """The driver has metadata of its own and takes no other, so the token is a parameter of the content's type."""
    from azure.storage.blob import ContentSettings

    return ContentSettings(content_type=f"application/octet-stream; {_TOKEN}={token}")


def _is_ours(connection: Connection, key: str, token: str, views: Views, tries: int) -> bool:
    """Whether an object that stands in the way was put by this very call."""
    if connection.is_s3 or connection.is_azure or connection.protocol in ("gs", "gcs"):
        return _token_of(connection, key) == token
    if tries == 1:
        return False
    return bool(connection.call("read", key, "cat_file", key) == b"".join(views))


def _token_of(connection: Connection, key: str) -> str:
    """The token of the call that put an object; empty if it has none, or there is no such object."""
    try:
        if connection.is_s3:
            bucket, name, _ = connection.fs.split_path(key)
            found = connection.call("look at", key, "call_s3", "head_object", Bucket=bucket, Key=name).get("Metadata")
        else:
            info = connection.call("look at", key, "info", key)
            found = info.get("metadata")
            if connection.is_azure:
                kind = str((info.get("content_settings") or {}).get("content_type") or "")
                found = {_TOKEN: kind.partition(f"{_TOKEN}=")[2]}
    except FileNotFoundError:
        return ""
    return str((found or {}).get(_TOKEN, ""))
