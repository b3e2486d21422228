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

from superluigi.errors import StoreUnavailableError, TargetNotFoundError
from superluigi.storage import files
from superluigi.storage.addresses import address_of
from superluigi.storage.concurrency import run_all
from superluigi.storage.observation import TransferDirection, transfer
from superluigi.storage.s3 import MULTIPART_THRESHOLD_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import BinaryIO, TypeAlias

    from s3transfer.futures import TransferFuture

    from superluigi.storage.fast import Engine
    from superluigi.storage.observation import Advance
    from superluigi.storage.s3 import Bucket, ObjectFacts

    _Ended: TypeAlias = queue.SimpleQueue[tuple[str, TransferFuture]]

_MANY = 8  # objects, from which on the extra `fast` is used: a process that used it hands none on to its forks
_MEDIUM_BYTES = 1 << 20
_MAX_IN_MEMORY = 16  # objects of up to 8 MiB


def upload(bucket: Bucket, paths: Mapping[str, Path], options: Mapping[str, Any]) -> dict[str, str]:
    """Upload files by their keys, and give the ETag of each.

    Every object changes in one step, by one PUT; from 8 MiB on by a multipart upload, which is aborted when it fails.
    The first that fails stops what has not begun, and what is under way is awaited.

    Raises:
        StorageError: one of the objects could not be put; it is named.
    """
    sizes = {key: path.stat().st_size for key, path in paths.items()}
    with transfer(TransferDirection.UPLOAD, bucket.name, sizes) as advance:
        return _upload(bucket, paths, options, sizes, advance)


def _upload(
    bucket: Bucket,
    paths: Mapping[str, Path],
    options: Mapping[str, Any],
    sizes: Mapping[str, int],
    advance: Advance | None,
) -> dict[str, str]:
    etags: dict[str, str] = {}
    small, medium, large = _by_size(sizes)
    engine = _engine(bucket, options, len(small) + len(medium))
    max_concurrency = _max_concurrency(bucket, engine)

    def put(key: str) -> None:
        with bucket.translated("PutObject", key):
            data = paths[key].read_bytes()
        if engine is not None and engine.is_for(key):
            try:
                etags[key] = engine.put(key, data)
            except Exception:  # noqa: BLE001  (boto3 tries again, and tells what is wrong)
                engine.failed()
        if key not in etags:
            etags[key] = bucket.put_bytes(key, data, options)
        if advance is not None:
            advance(len(data))

    run_all((partial(put, key) for key in small), max_concurrency=max_concurrency)
    run_all((partial(put, key) for key in medium), max_concurrency=min(max_concurrency, _MAX_IN_MEMORY))
    return {**etags, **_upload_in_parts(bucket, {key: paths[key] for key in large}, options, advance)}


def _upload_in_parts(
    bucket: Bucket, paths: Mapping[str, Path], options: Mapping[str, Any], advance: Advance | None
) -> dict[str, str]:
    if not paths:
        return {}
    etags: dict[str, str] = {}
    ended: _Ended = queue.SimpleQueue()
    with bucket.transfer_manager(etags) as manager:
        for key, path in paths.items():
            told = [_subscriber(key, ended, advance)]
            manager.upload(str(path), bucket.name, key, extra_args=dict(options), subscribers=told)
        for _ in paths:
            _next_ended(bucket, "PutObject", ended)
    return etags


def download(bucket: Bucket, destinations: Iterable[tuple[ObjectFacts, Path]]) -> bool:
    """Download objects into new files; say whether the bytes that arrived are those that S3 told of.

    One GET each, or one per 8 MiB; again if the answer breaks off. What arrives wrong is removed,
    and stops what has not begun.

    Raises:
        TargetNotFoundError: there is no such object.
        StorageError: one of the objects could not be fetched; it is named.
    """
    wanted = {expected.key: (expected, path) for expected, path in destinations}
    sizes = {key: expected.size_bytes for key, (expected, _) in wanted.items()}
    try:
        with transfer(TransferDirection.DOWNLOAD, bucket.name, sizes) as advance:
            _download(bucket, wanted, sizes, advance)
    except _OtherBytesError:
        return False
    return True


def _download(
    bucket: Bucket, wanted: Mapping[str, tuple[ObjectFacts, Path]], sizes: Mapping[str, int], advance: Advance | None
) -> None:
    small, medium, large = _by_size(sizes)
    engine = _engine(bucket, {}, len(small) + len(medium))
    max_concurrency = _max_concurrency(bucket, engine)

    def fetch(key: str) -> bytes:
        if engine is not None and engine.is_for(key):
            try:
                return engine.get(key)
            except Exception:  # noqa: BLE001  (boto3 tries again, and tells what is wrong)
                engine.failed()
        data = bucket.get_bytes(key)
        if data is None:
            raise TargetNotFoundError.at(address_of(bucket.name, key))
        return data

    def get(key: str) -> None:
        expected, path = wanted[key]
        data = fetch(key)
        check = _Check(expected)
        check.update(data)
        if not check.holds(bucket):
            raise _OtherBytesError
        path.write_bytes(data)
        if advance is not None:
            advance(len(data))

    run_all((partial(get, key) for key in small), max_concurrency=max_concurrency)
    run_all((partial(get, key) for key in medium), max_concurrency=min(max_concurrency, _MAX_IN_MEMORY))
    _download_in_parts(bucket, [wanted[key] for key in large], advance)


def _download_in_parts(bucket: Bucket, destinations: list[tuple[ObjectFacts, Path]], advance: Advance | None) -> None:
    if not destinations:
        return
    arriving = {expected.key: _ArrivingFile(expected, path) for expected, path in destinations}
    ended: _Ended = queue.SimpleQueue()
    with contextlib.ExitStack() as unfinished:
        for file in arriving.values():
            unfinished.callback(file.discard)
        with bucket.transfer_manager() as manager:
            for key, file in arriving.items():
                told = [_subscriber(key, ended, advance, file.check.expected)]
                manager.download(bucket.name, key, file, subscribers=told)
            for _ in arriving:
                file = arriving[_next_ended(bucket, "GetObject", ended)]
                file.close()
                if not file.check.holds(bucket):
                    raise _OtherBytesError
        unfinished.pop_all()


def _by_size(sizes: Mapping[str, int]) -> tuple[list[str], list[str], list[str]]:
    """Give the keys of what goes whole, what goes whole but few at a time, and what goes in parts."""
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for key, size_bytes in sizes.items():
        groups[(size_bytes >= _MEDIUM_BYTES) + (size_bytes >= MULTIPART_THRESHOLD_BYTES)].append(key)
    return groups


def _engine(bucket: Bucket, options: Mapping[str, Any], count: int) -> Engine | None:
    if count < _MANY:
        return None
    from superluigi.storage import fast

    return fast.engine(bucket, options)


def _max_concurrency(bucket: Bucket, engine: Engine | None) -> int:
    return bucket.max_concurrency() if engine is None else bucket.max_concurrency(engine.max_concurrency)


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
    """How boto3 learns what it would else ask for, in threads that `max_concurrency` does not bound, and what it says.

    With the ETag, an object that is replaced between two of its parts is noticed.
    """

    def __init__(self, key: str, ended: _Ended, expected: ObjectFacts | None = None) -> None:
        self.key = key
        self.ended = ended
        self.expected = expected

    def on_queued(self, future: TransferFuture, **_: object) -> None:
        if self.expected is not None:
            future.meta.provide_transfer_size(self.expected.size_bytes)
            if hasattr(future.meta, "provide_object_etag"):  # an older s3transfer has no such thing
                future.meta.provide_object_etag(f'"{self.expected.etag}"')

    def on_done(self, future: TransferFuture, **_: object) -> None:
        self.ended.put((self.key, future))


class _CountingSubscriber(_Subscriber):
    """One that also learns of the bytes; boto3 counts them for those alone who want to know, in threads of its own."""

    def __init__(self, key: str, ended: _Ended, expected: ObjectFacts | None = None, *, advance: Advance) -> None:
        super().__init__(key, ended, expected)
        self.advance = advance

    def on_progress(self, bytes_transferred: int, **_: object) -> None:
        self.advance(bytes_transferred)


def _subscriber(key: str, ended: _Ended, advance: Advance | None, expected: ObjectFacts | None = None) -> _Subscriber:
    if advance is None:
        return _Subscriber(key, ended, expected)
    return _CountingSubscriber(key, ended, expected, advance=advance)


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
