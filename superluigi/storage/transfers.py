"""Files up to S3 and down from it, one or many: at the same time, small ones whole and large ones in parts.

Threads, memory and open requests are bounded by `max_concurrency`, whatever is sent. The invariant: what was
downloaded holds the bytes that S3 told of, and what arrived otherwise is not left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
from functools import partial
from typing import TYPE_CHECKING, Any

from superluigi.errors import StoreUnavailableError
from superluigi.storage import files
from superluigi.storage.concurrency import run_all
from superluigi.storage.s3 import DIGEST_HEADER, MULTIPART_THRESHOLD_BYTES, etag_of
from superluigi.storage.s3_errors import not_found

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import BinaryIO, TypeAlias

    from s3transfer.futures import TransferFuture

    from superluigi.storage.s3 import Bucket, ObjectFacts

    _Ended: TypeAlias = queue.SimpleQueue[tuple[str, TransferFuture]]


def upload(bucket: Bucket, paths: Mapping[str, Path], options: Mapping[str, Any]) -> dict[str, str | None]:
    """Upload files by their keys, and give the ETag of each, None if somebody else has replaced it since.

    Every object changes in one step, by one PUT; from 8 MiB on by a multipart upload, which is aborted when it fails,
    and one HEAD. The first that fails stops what has not begun, and what is under way is awaited.

    Raises:
        StorageError: one of the objects could not be put; it is named.
    """
    etags: dict[str, str | None] = {}
    small: list[str] = []
    large: list[str] = []
    for key, path in paths.items():
        (small if path.stat().st_size < MULTIPART_THRESHOLD_BYTES else large).append(key)

    def put(key: str) -> None:
        with open(paths[key], "rb") as body:
            etags[key] = bucket.put_bytes(key, body, options)

    def look(key: str, expected: str) -> None:
        present = bucket.head(key)
        is_ours = present is not None and expected in {present.digest, present.etag}
        etags[key] = present.etag if present is not None and is_ours else None

    max_concurrency = bucket.max_concurrency()
    run_all((partial(put, key) for key in small), max_concurrency=max_concurrency)
    expected: dict[str, str] = {}
    if large:
        ended: _Ended = queue.SimpleQueue()
        with bucket.transfer_manager() as manager:
            for key in large:
                told = [_Subscriber(key, ended)]
                manager.upload(str(paths[key]), bucket.name, key, extra_args=dict(options), subscribers=told)
            for key in large:  # here, while the threads send
                expected[key] = options.get("Metadata", {}).get(DIGEST_HEADER) or etag_of(paths[key])
            for _ in large:
                _next_ended(bucket, "PutObject", ended)
    run_all((partial(look, key, expected[key]) for key in large), max_concurrency=max_concurrency)
    return etags


def download(bucket: Bucket, destinations: Iterable[tuple[ObjectFacts, Path]]) -> bool:
    """Download objects into new files; say whether the bytes that arrived are those that S3 told of.

    One GET each, or one per 8 MiB and a HEAD; again if the answer breaks off. What arrives wrong is removed, and stops
    what has not begun.

    Raises:
        TargetNotFoundError: there is no such object.
        StorageError: one of the objects could not be fetched; it is named.
    """
    small: list[tuple[ObjectFacts, Path]] = []
    large: list[tuple[ObjectFacts, Path]] = []
    for expected, path in destinations:
        (small if expected.size_bytes < MULTIPART_THRESHOLD_BYTES else large).append((expected, path))

    def get(expected: ObjectFacts, path: Path) -> None:
        data = bucket.get_bytes(expected.key)
        if data is None:
            raise not_found(f"s3://{bucket.name}/{expected.key}")
        check = _Check(expected)
        check.update(data)
        if not check.holds(bucket):
            raise _OtherBytesError
        path.write_bytes(data)

    try:
        run_all((partial(get, *item) for item in small), max_concurrency=bucket.max_concurrency())
        if large:
            _download_in_parts(bucket, large)
    except _OtherBytesError:
        return False
    return True


def _download_in_parts(bucket: Bucket, destinations: list[tuple[ObjectFacts, Path]]) -> None:
    arriving = {expected.key: _ArrivingFile(expected, path) for expected, path in destinations}
    ended: _Ended = queue.SimpleQueue()
    with contextlib.ExitStack() as unfinished:
        for file in arriving.values():
            unfinished.callback(file.discard)
        with bucket.transfer_manager() as manager:
            for key, file in arriving.items():
                manager.download(bucket.name, key, file, subscribers=[_Subscriber(key, ended)])
            for _ in arriving:
                file = arriving[_next_ended(bucket, "GetObject", ended)]
                file.close()
                if not file.check.holds(bucket):
                    raise _OtherBytesError
        unfinished.pop_all()


class _OtherBytesError(Exception):
    """What arrived is not what S3 told of."""


class _Check:
    """Whether the bytes that arrive, in order, are those that S3 told of."""

    def __init__(self, expected: ObjectFacts) -> None:
        self.expected = expected
        self.size_bytes = 0
        self.hash = hashlib.sha256() if expected.digest else hashlib.md5(usedforsecurity=False)
        self.told = expected.digest or expected.md5

    def update(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.told:
            self.hash.update(data)

    def holds(self, bucket: Bucket) -> bool:
        if self.size_bytes != self.expected.size_bytes:
            return False
        found = f"sha256:{self.hash.hexdigest()}" if self.expected.digest else self.hash.hexdigest()
        if self.told is None or self.told == found:
            return True
        if self.expected.digest:
            return False
        present = bucket.head(self.expected.key)  # a listing does not tell of encryption; under it an ETag is no MD5
        return present is not None and present.etag == self.expected.etag and present.md5 is None


class _ArrivingFile:
    """A file that takes its bytes in order and hashes them on the way; made with the first of them.

    boto3 keeps the order where the file has no `seek`, and what comes early waits, ten parts of it at most.
    """

    def __init__(self, expected: ObjectFacts, path: Path) -> None:
        self.path = path
        self.check = _Check(expected)
        self.file: BinaryIO | None = None

    def write(self, data: bytes) -> int:
        if self.file is None:
            self.file = open(self.path, "wb")  # noqa: SIM115  (boto3 writes, `close` ends)
        self.check.update(data)
        return self.file.write(data)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def discard(self) -> None:
        self.close()
        files.discard(self.path)


class _Subscriber:
    """How boto3 says that a transfer has ended."""

    def __init__(self, key: str, ended: _Ended) -> None:
        self.key = key
        self.ended = ended

    def on_done(self, future: TransferFuture, **_: object) -> None:
        self.ended.put((self.key, future))


def _next_ended(bucket: Bucket, operation: str, ended: _Ended) -> str:
    """Wait for the next transfer that ends, and give its key. Raises what it ended with, in our words."""
    key, future = ended.get()
    try:
        with bucket.translated(operation, key):
            future.result()
    except StoreUnavailableError as error:
        if type(error.__cause__).__name__ == "S3DownloadFailedError":
            raise _OtherBytesError from error  # it was replaced between two of its parts
        raise
    return key
