"""Targets in S3: one object, or all objects under a prefix, each with a local copy.

An object changes by one PUT, which carries the run's id and the digest of the bytes, so that a record that is
not the object's own is recognised. A prefix cannot change in one step: an intent marker stands in it while it is
written, and a prefix with a marker does not exist. The invariant: bytes that were not published are never in the
local copy, and the copy is served only while the remote's fingerprint is the one recorded with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superluigi.errors import InvalidNameError, StorageError, TargetNotFoundError, TargetShapeError
from superluigi.storage import files
from superluigi.storage.cache import CacheEntry, default_root, readable_name
from superluigi.storage.s3 import Bucket, ObjectFacts, etag_of
from superluigi.targets import metadata
from superluigi.targets.base import Present, Shape, Target, Written, not_found

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from superluigi.targets.metadata import Metadata

_INSIDE_NAME = ".metadata.json"
_MARKER_SUFFIX = ".superluigi-intent"
_UNFINISHED_NAME = ".superluigi-unfinished"
_RUN_ID = "superluigi-run-id"
_DIGEST = "superluigi-digest"
_MAX_KEY_BYTES = 1024
_DOWNLOADS = 3
_BUCKET = re.compile(r"^(arn:[\w:/.-]+|[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9])$")


@dataclass(frozen=True)
class _S3Store:
    """What objects and prefixes have in common: buckets, the record, the marker, the staging."""

    bucket: Bucket
    key: str
    metadata_bucket: Bucket
    metadata_key: str
    marker_key: str
    local_root: Path | None
    upload_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"s3://{self.bucket.name}/{self.key}"

    def entry(self) -> CacheEntry:
        """Give the place of the local copy. Makes the client, which knows the endpoint."""
        root = self.local_root or default_root()
        return CacheEntry(root, self.bucket.endpoint(), self.bucket.name, type(self).__name__, self.key)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder beside the local copies."""
        with files.private_folder() as folder:
            yield folder

    def write_record(self, record: Metadata) -> None:
        """Replace the record in one PUT."""
        self.metadata_bucket.put_bytes(self.metadata_key, metadata.encode(record), self.upload_options)

    def _stored_record(self) -> Metadata | None:
        data = self.metadata_bucket.get_bytes(self.metadata_key)
        return None if data is None else metadata.decode(data)

    def mark(self) -> None:
        """Put the marker."""
        self.bucket.put_bytes(self.marker_key, b"", {})

    def unmark(self) -> None:
        """Take the marker away."""
        self.bucket.delete([self.marker_key])

    def is_marked(self) -> bool:
        """Say whether the marker stands. One HEAD."""
        return self.bucket.head(self.marker_key) is not None


class S3ObjectStore(_S3Store):
    """One object."""

    def exists(self) -> bool:
        """Say whether the object is there. One HEAD."""
        return self.bucket.head(self.key) is not None

    def publish(self, written: Written, record: Metadata | None) -> None:
        """Put the record, then the object in one step; the new record holds the old one, should the second fail."""
        facts = {_DIGEST: written.fingerprint}
        with files.lock(self.address):
            if record is None:
                self.metadata_bucket.delete([self.metadata_key])
            else:
                facts[_RUN_ID] = str(record.get("run_id", ""))
                own = self._own_record(self.bucket.head(self.key))
                own = own and {**own, "superseded": None}
                self.write_record({**record, "superseded": own} if own else record)
            user_metadata = {**self.upload_options.get("Metadata", {}), **facts}
            etag = self.bucket.put_file(self.key, written.path, {**self.upload_options, "Metadata": user_metadata})
        self.entry().adopt(written.path, etag)

    def read_record(self) -> Metadata | None:
        """Give the record of the present object. One HEAD, one GET."""
        return self._own_record(self.bucket.head(self.key))

    def _own_record(self, present: ObjectFacts | None) -> Metadata | None:
        record = None if present is None else self._stored_record()
        if present is None or record is None:
            return None
        superseded = record.pop("superseded", None)
        for candidate in (record, superseded):
            if isinstance(candidate, dict) and _is_of(candidate, present):
                candidate.pop("superseded", None)
                return candidate
        return None

    def fingerprint(self) -> str:
        """Give the digest that was put with the object, else its ETag. One HEAD."""
        present = self.bucket.head(self.key)
        if present is None:
            raise self._missing()
        return _fingerprint_of(present)

    @contextlib.contextmanager
    def reading(self, *, force: bool = False) -> Iterator[Present]:
        """Yield the local copy, made now if there is no fresh one. One HEAD, and one GET if it has to be made."""
        present = self.bucket.head(self.key)
        if present is None:
            raise self._missing()
        with self.entry().reading(present.etag, lambda path: self._download(path, present), force=force) as copy:
            yield Present(copy, lambda: _fingerprint_of(present))

    def _download(self, destination: Path, expected: ObjectFacts) -> None:
        for _ in range(_DOWNLOADS):
            self.bucket.get_file(self.key, destination)
            if _holds(destination, expected):
                return
            files.discard(destination)
        raise StorageError(
            "GetObject",
            self.address,
            f"the bytes that arrived are not those of ETag {expected.etag} ({expected.size_bytes} bytes)",
            "The object is being replaced, or the connection damages data. Run again.",
            tries=_DOWNLOADS,
        )

    def _missing(self) -> Exception:
        """Say what is there instead. One listing."""
        below = list(self.bucket.listing(f"{self.key}/", limit=1000))
        if not below:
            return not_found(self.address)
        count = f"{len(below)}{' or more' if len(below) == 1000 else ''}"
        message = (
            f"{self.address} is a prefix holding {count} objects, but S3ObjectTarget expects one object. "
            "Use S3PrefixTarget, or name the object in full."
        )
        return TargetShapeError(message)

    def discard(self) -> None:
        """Delete the object, then the record."""
        self.bucket.delete([self.key])
        self.metadata_bucket.delete([self.metadata_key])
        self.unmark()
        self.entry().forget()


class S3PrefixStore(_S3Store):
    """All objects under a prefix; `key` ends in a slash."""

    def exists(self) -> bool:
        """Say whether there is an object, and no marker. One listing of the first hundred keys."""
        found = False
        for item in self.bucket.listing(self.key):
            if item.key == self._unfinished_key:
                return False
            found = found or self._is_data(item)
            if found and item.key > self._unfinished_key:
                break
        return found

    @property
    def _unfinished_key(self) -> str:
        """The object that stands in the prefix while it is written."""
        return f"{self.key}{_UNFINISHED_NAME}"

    def _is_data(self, item: ObjectFacts) -> bool:
        return item.key not in (self._unfinished_key, self.metadata_key) and not item.key.endswith("/")

    def _present(self) -> list[ObjectFacts]:
        """List the objects; none if the marker stands."""
        items = list(self.bucket.listing(self.key))
        if any(item.key == self._unfinished_key for item in items):
            return []
        return [item for item in items if self._is_data(item)]

    def _entries(self, items: list[ObjectFacts]) -> list[files.Entry]:
        names = [item.key.removeprefix(self.key) for item in items]
        files.check_names(names, self.address)
        return [files.Entry(name, item.size_bytes, item.etag) for name, item in zip(names, items, strict=True)]

    def publish(self, written: Written, record: Metadata | None) -> None:
        """Between setting and removing the marker: upload what changed, delete what is superfluous, put the record."""
        local = dict(files.files_in(written.path))
        files.check_names(local, self.address)
        with files.lock(self.address):
            self.bucket.put_bytes(self._unfinished_key, b"", {})
            remote = {item.key: item.etag for item in self.bucket.listing(self.key) if self._is_data(item)}
            if record is None:
                self.metadata_bucket.delete([self.metadata_key])
            for name, path in local.items():
                if remote.pop(f"{self.key}{name}", None) != etag_of(path):
                    self.bucket.put_file(f"{self.key}{name}", path, self.upload_options)
            self.bucket.delete(remote)
            fingerprint = self._fingerprint_of(self._listed())
            if record is not None:
                self.write_record({**record, "output": {**record["output"], "fingerprint": fingerprint}})
            self.bucket.delete([self._unfinished_key])
        self.entry().adopt(written.path, fingerprint)

    def _listed(self) -> list[ObjectFacts]:
        return [item for item in self.bucket.listing(self.key) if self._is_data(item)]

    def _fingerprint_of(self, items: list[ObjectFacts]) -> str:
        return files.digest_of_entries(self._entries(items))

    def read_record(self) -> Metadata | None:
        """Give the record of the present objects. One listing, one GET."""
        if not self.exists():
            return None
        return self._stored_record()

    def fingerprint(self) -> str:
        """Give one digest over names, sizes and ETags. One listing."""
        present = self._present()
        if not present:
            raise self._missing()
        return self._fingerprint_of(present)

    @contextlib.contextmanager
    def reading(self, *, force: bool = False) -> Iterator[Present]:
        """Yield the local copy, made now if there is no fresh one. One listing, and a GET per object."""
        present = self._present()
        if not present:
            raise self._missing()
        fingerprint = self._fingerprint_of(present)
        with self.entry().reading(fingerprint, lambda path: self._download(path, present), force=force) as copy:
            yield Present(copy, lambda: fingerprint)

    def _download(self, folder: Path, items: list[ObjectFacts]) -> None:
        for item in items:
            path = folder / item.key.removeprefix(self.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.bucket.get_file(item.key, path)
            if path.stat().st_size != item.size_bytes:
                raise StorageError(
                    "GetObject",
                    f"s3://{self.bucket.name}/{item.key}",
                    f"{path.stat().st_size} bytes arrived of {item.size_bytes}",
                    "The object is being replaced, or the connection broke. Run again.",
                )

    def _missing(self) -> Exception:
        """Say what is there instead. Up to two HEADs."""
        if self.bucket.head(self._unfinished_key) is not None:
            message = f"{self.address} is half-written: an upload broke off or is under way. Run its task again."
            return TargetNotFoundError(message)
        name = self.key.rstrip("/")
        if self.bucket.head(name) is None:
            return not_found(self.address)
        message = (
            f"s3://{self.bucket.name}/{name} is one object, but S3PrefixTarget expects a prefix. Use S3ObjectTarget."
        )
        return TargetShapeError(message)

    def discard(self) -> None:
        """Delete the objects, then the record, then a marker."""
        self.bucket.delete(item.key for item in self._listed())
        self.metadata_bucket.delete([self.metadata_key])
        self.bucket.delete([self._unfinished_key, self.marker_key])
        self.entry().forget()


def _fingerprint_of(present: ObjectFacts) -> str:
    """Give the digest that was put with the object, else its ETag."""
    return present.metadata.get(_DIGEST) or f"etag:{present.etag}"


def _is_of(record: Metadata, present: ObjectFacts) -> bool:
    """Say whether a record is this object's own; one that was written by hand names no run."""
    if "run_id" not in record:
        return True
    is_same_run = present.metadata.get(_RUN_ID, record["run_id"]) == record["run_id"]
    return bool(is_same_run and (record.get("output") or {}).get("fingerprint") == _fingerprint_of(present))


def _holds(path: Path, expected: ObjectFacts) -> bool:
    if path.stat().st_size != expected.size_bytes:
        return False
    if _DIGEST in expected.metadata:
        return files.digest(path) == expected.metadata[_DIGEST]
    return True


class _S3Target(Target):
    """What the two public classes share; which of the two it is decides shape and store."""

    _store_cls: type[S3ObjectStore | S3PrefixStore]

    _bucket: Bucket
    _key: str
    _metadata_bucket: Bucket
    _metadata_key: str
    _marker_key: str
    _local_root: Path | None

    @property
    def path(self) -> str:
        """The `s3://` address."""
        return f"s3://{self._bucket.name}/{self._key}"

    @property
    def metadata_path(self) -> str:
        """The `s3://` address of the record."""
        return f"s3://{self._metadata_bucket.name}/{self._metadata_key}"

    @property
    def name(self) -> str:
        """The last part of the key, made safe where a file system would not take it."""
        return readable_name(self._key)

    @property
    def store(self) -> S3ObjectStore | S3PrefixStore:
        """The place."""
        return self._store_cls(
            self._bucket, self._key, self._metadata_bucket, self._metadata_key, self._marker_key, self._local_root
        )

    @property
    def local_path(self) -> Path:
        """Where the local copy lies, or would lie. Nothing is downloaded and no request is made."""
        return self.store.entry().path

    def download(self, force_local_download: bool = False) -> Path:  # noqa: FBT001, FBT002  (the published name)
        """Give the path of a fresh local copy; read it, do not write to it.

        Downloads only if there is no copy of the remote's present bytes, or by force. One HEAD or one listing.

        Raises:
            TargetNotFoundError: there is nothing to download.
        """
        with self.store.reading(force=force_local_download) as copy:
            return copy.path


class S3ObjectTarget(_S3Target):
    """One object in S3.

    The record is `<object_key>.metadata.json` in the same bucket unless `metadata_bucket` or
    `metadata_object_key` say otherwise. Local copies lie under the data directory or under `local_root`.
    `role_arn` is assumed with credentials that renew themselves; `client_options` go to `boto3.client`.

    Raises:
        InvalidNameError: a bucket or key that cannot be one.
    """

    shape = Shape.FILE
    other_shape = "S3PrefixTarget"
    _store_cls = S3ObjectStore

    def __init__(
        self,
        bucket: str,
        object_key: str,
        metadata_bucket: str | None = None,
        metadata_object_key: str | None = None,
        local_root: str | os.PathLike[str] | None = None,
        role_arn: str | None = None,
        **client_options: Any,
    ) -> None:
        self._key = _checked_key(object_key)
        if object_key.endswith("/"):
            raise InvalidNameError(object_key, "ends in a slash and so names a prefix", "Use S3PrefixTarget.")
        self._bucket = Bucket(_checked_bucket(bucket), role_arn, client_options)
        self._metadata_bucket = Bucket(_checked_bucket(metadata_bucket or bucket), role_arn, client_options)
        self._metadata_key = _checked_key(metadata_object_key or f"{object_key}.metadata.json")
        self._marker_key = f"{object_key}{_MARKER_SUFFIX}"
        self._local_root = None if local_root is None else Path(local_root).expanduser().absolute()


class S3PrefixTarget(_S3Target):
    """All objects under a prefix in S3, replaced whole; a slash at its end may be left out.

    The record is `<prefix>.metadata.json` beside the prefix, or `.metadata.json` in it with
    `metadata_inside_prefix`; it names up to `metadata_contents_limit` files. The other arguments are those of
    S3ObjectTarget.

    A prefix cannot be replaced in one step: if an upload breaks off half-way, the prefix no longer counts as
    existing, and the next run uploads it again.

    Raises:
        InvalidNameError: a bucket or prefix that cannot be one.
    """

    shape = Shape.FOLDER
    other_shape = "S3ObjectTarget"
    _store_cls = S3PrefixStore

    def __init__(
        self,
        bucket: str,
        prefix: str,
        metadata_bucket: str | None = None,
        metadata_object_key: str | None = None,
        local_root: str | os.PathLike[str] | None = None,
        role_arn: str | None = None,
        *,
        metadata_inside_prefix: bool = False,
        metadata_contents_limit: int = 10,
        **client_options: Any,
    ) -> None:
        if metadata_inside_prefix and (metadata_bucket or metadata_object_key):
            problem, way_out = "is given together with metadata_inside_prefix", "Give one of the two."
            raise InvalidNameError(str(metadata_object_key or metadata_bucket), problem, way_out)
        name = _checked_key(prefix).removesuffix("/")
        self._key = f"{_checked_key(name)}/"
        self._bucket = Bucket(_checked_bucket(bucket), role_arn, client_options)
        self._metadata_bucket = Bucket(_checked_bucket(metadata_bucket or bucket), role_arn, client_options)
        inside, beside = f"{self._key}{_INSIDE_NAME}", f"{name}.metadata.json"
        self._metadata_key = inside if metadata_inside_prefix else _checked_key(metadata_object_key or beside)
        self._marker_key = f"{name}{_MARKER_SUFFIX}"
        self._local_root = None if local_root is None else Path(local_root).expanduser().absolute()
        self.metadata_contents_limit = metadata_contents_limit


def _checked_bucket(bucket: str) -> str:
    if isinstance(bucket, str) and _BUCKET.match(bucket):
        return bucket
    way_out = "Give its bare name, such as 'my-bucket', or the ARN of an access point."
    raise InvalidNameError(str(bucket), "cannot be the name of a bucket", way_out)


def _checked_key(key: str) -> str:
    """Give the key if S3 can hold it and a local copy of it can be told from that of every other key."""
    way_out = "Give a key such as 'data/features.csv'."
    if not isinstance(key, str) or not key.strip("/ "):
        raise InvalidNameError(str(key), "is an empty key", way_out)
    if key.startswith("s3://"):
        raise InvalidNameError(key, "is an address, not a key", "Give bucket and key as two arguments.")
    if key.startswith("/"):
        raise InvalidNameError(key, "is an absolute key", f"Leave out the slash at its start: {key.lstrip('/')!r}.")
    if "\0" in key:
        raise InvalidNameError(key, "holds a NUL character", way_out)
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidNameError(key, "cannot be written as UTF-8", way_out) from None
    if length > _MAX_KEY_BYTES:
        raise InvalidNameError(key, f"has {length} bytes, but S3 allows {_MAX_KEY_BYTES}", "Shorten it.")
    return key
