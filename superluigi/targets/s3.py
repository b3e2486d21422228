"""Targets in S3: one object, or all objects under a prefix.

What is done there is in `s3_store`. The invariant: a target is its names; making one asks nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from superluigi.errors import InvalidNameError
from superluigi.storage.addresses import address_of, checked_bucket, checked_key
from superluigi.storage.cache import readable_name
from superluigi.storage.s3 import Bucket
from superluigi.targets.base import Target
from superluigi.targets.foresight import Question, look_ahead
from superluigi.targets.metadata import RECORD_SUFFIX
from superluigi.targets.s3_store import S3ObjectStore, S3PrefixStore
from superluigi.targets.store import Shape

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping


class _S3Target(Target):
    """What the two public classes share; which of the two it is decides shape and store."""

    _store_cls: type[S3ObjectStore | S3PrefixStore]

    _bucket: Bucket
    _key: str
    _metadata_bucket: Bucket
    _metadata_key: str
    _local_root: Path | None
    _upload_options: Mapping[str, Any]

    @property
    def path(self) -> str:
        """The `s3://` address."""
        return address_of(self._bucket.name, self._key)

    @property
    def metadata_path(self) -> str:
        """The `s3://` address of the record."""
        return address_of(self._metadata_bucket.name, self._metadata_key)

    @property
    def name(self) -> str:
        """The last part of the key, made safe where a file system would not take it."""
        return readable_name(self._key)

    @property
    def store(self) -> S3ObjectStore | S3PrefixStore:
        """The place."""
        return self._store_cls(
            self._bucket,
            self._key,
            self._metadata_bucket,
            self._metadata_key,
            self._local_root,
            self._upload_options,
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
    `upload_options`, such as `{"ServerSideEncryption": "aws:kms", "StorageClass": "STANDARD_IA"}`, hold for the data
    and the record; what boto3 does not know is refused before the task runs.

    Raises:
        InvalidNameError: a bucket or key that cannot be one.
    """

    shape = Shape.FILE
    other_shape = "S3PrefixTarget"
    _store_cls = S3ObjectStore

    def __init__(  # noqa: PLR0917  (the published order)
        self,
        bucket: str,
        object_key: str,
        metadata_bucket: str | None = None,
        metadata_object_key: str | None = None,
        local_root: str | os.PathLike[str] | None = None,
        role_arn: str | None = None,
        *,
        upload_options: Mapping[str, Any] | None = None,
        **client_options: Any,
    ) -> None:
        self._upload_options = dict(upload_options or {})
        self._key = checked_key(object_key)
        if object_key.endswith("/"):
            raise InvalidNameError(object_key, "ends in a slash and so names a prefix", "Use S3PrefixTarget.")
        self._bucket = Bucket(checked_bucket(bucket), role_arn, client_options)
        self._metadata_bucket = Bucket(checked_bucket(metadata_bucket or bucket), role_arn, client_options)
        self._metadata_key = checked_key(metadata_object_key or f"{object_key}{RECORD_SUFFIX}")
        if (self._metadata_bucket.name, self._metadata_key) == (bucket, object_key):
            way_out = "Leave metadata_object_key out, or give another."
            raise InvalidNameError(object_key, "is the key of the data and of their record", way_out)
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

    def __init__(  # noqa: PLR0917  (the published order)
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
        upload_options: Mapping[str, Any] | None = None,
        **client_options: Any,
    ) -> None:
        self._upload_options = dict(upload_options or {})
        if metadata_inside_prefix and (metadata_bucket or metadata_object_key):
            problem, way_out = "is given together with metadata_inside_prefix", "Give one of the two."
            raise InvalidNameError(str(metadata_object_key or metadata_bucket), problem, way_out)
        name = checked_key(prefix).removesuffix("/")
        self._key = f"{checked_key(name)}/"
        self._bucket = Bucket(checked_bucket(bucket), role_arn, client_options)
        self._metadata_bucket = Bucket(checked_bucket(metadata_bucket or bucket), role_arn, client_options)
        inside, beside = f"{self._key}{RECORD_SUFFIX}", f"{name}{RECORD_SUFFIX}"
        self._metadata_key = inside if metadata_inside_prefix else checked_key(metadata_object_key or beside)
        self._local_root = None if local_root is None else Path(local_root).expanduser().absolute()
        self.metadata_contents_limit = metadata_contents_limit


def ask_together(targets: Iterable[Target], guards: Iterable[Target]) -> None:
    """Find out which targets in S3 exist, and which of the guards are marked; others are passed over.

    For use within `foresight`: `exists()` and `is_marked()` then find the answers. One alone is not asked.
    """
    stores = [target.store for target in targets if isinstance(target, _S3Target)]
    objects: list[Question] = [(store.bucket, store.key) for store in stores if isinstance(store, S3ObjectStore)]
    marked = [guard.store for guard in guards if isinstance(guard, _S3Target)]
    objects += [(store.bucket, store.marker_key) for store in marked]
    prefixes = [store for store in stores if isinstance(store, S3PrefixStore)]
    if len(objects) + len(prefixes) > 1:
        look_ahead(objects, [((store.bucket, store.key), store.exists) for store in prefixes])


def s3_store(target: object) -> S3ObjectStore | S3PrefixStore | None:
    """Give the place in S3 of a target, None if it is elsewhere."""
    return target.store if isinstance(target, _S3Target) else None


def is_remote(target: object) -> bool:
    """Say whether asking for the target takes a request."""
    return isinstance(target, _S3Target)
