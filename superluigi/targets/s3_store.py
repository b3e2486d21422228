"""The places in S3: one object, or all objects under a prefix, each with a local copy.

An object changes by one PUT, which carries the run's id and the digest of the bytes, so that a record that is
not the object's own is recognised. A prefix cannot change in one step: an intent marker stands in it while it is
written, and a prefix with a marker does not exist. The invariant: bytes that were not published are never in the
local copy, and the copy is served only while the remote's fingerprint is the one recorded with it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from superluigi.errors import StorageError, TargetNotFoundError, TargetShapeError
from superluigi.storage import files, known, processes, transfers, workplace
from superluigi.storage.addresses import address_of, checked_key
from superluigi.storage.cache import CacheEntry, default_root
from superluigi.storage.known import Known
from superluigi.storage.s3 import DIGEST_HEADER, Bucket, ObjectFacts, check_upload_options, etag_of
from superluigi.storage.s3_leases import S3Lease
from superluigi.targets import metadata
from superluigi.targets.foresight import answer
from superluigi.targets.metadata import SUPERSEDED, kept_in, output_in
from superluigi.targets.store import MAX_NAMED, Glimpse, Present, Seen, Written, seen_without_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from superluigi.targets.metadata import Metadata

_MARKER_SUFFIX = ".superluigi-intent"
_LEASE_SUFFIX = ".superluigi-lease"
UNFINISHED_NAME = ".superluigi-unfinished"
_RUN_ID = "superluigi-run-id"
_DOWNLOADS = 3
_KEYS_OF_A_PAGE = 1000


@dataclass(frozen=True)
class _S3Store:
    """What objects and prefixes have in common: buckets, the record, the marker, the staging."""

    bucket: Bucket
    key: str
    metadata_bucket: Bucket
    metadata_key: str
    local_root: Path | None
    upload_options: Mapping[str, Any] = field(default_factory=dict)
    changes_in_steps: ClassVar[bool] = False

    @property
    def address(self) -> str:
        return address_of(self.bucket.name, self.key)

    @property
    def marker_key(self) -> str:
        """The object that is the intent marker of a task, beside the data."""
        return f"{self.key.removesuffix('/')}{_MARKER_SUFFIX}"

    def entry(self) -> CacheEntry:
        """Give the place of the local copy. Makes the client, which knows the endpoint."""
        root = self.local_root or default_root()
        return CacheEntry(root, self.bucket.endpoint(), self.bucket.name, type(self).__name__, self.key)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder beside the local copies. Raises ConfigError for upload options that boto3 lacks."""
        check_upload_options(self.upload_options)
        with workplace.private_folder() as folder:
            yield folder

    def write_record(self, record: Metadata) -> None:
        """Replace the record in one PUT."""
        data = metadata.encode(record)
        etag = self.metadata_bucket.put_bytes(self.metadata_key, data, self.upload_options)
        known.remember(self.metadata_bucket, {self.metadata_key: Known(etag, data=data)})

    def stamp(self) -> None:
        """Give nothing: S3 tells the fingerprint."""

    def stored_record(self) -> Metadata | None:
        """Give the record as it lies there, be it of other data. One GET."""
        data = self.metadata_bucket.get_bytes(self.metadata_key)
        return None if data is None else metadata.decode(data)

    def _let_stay(self, seen: Seen) -> None:
        """Let the record of present data say that it outlives them; where there is none, that alone is what stays."""
        if seen.fingerprint is not None:
            record = metadata.removed(seen.record or {})
            self.metadata_bucket.put_bytes(self.metadata_key, record, self.upload_options)

    def mark(self, run: str) -> None:
        """Put the marker."""
        self.bucket.put_bytes(self.marker_key, run.encode(), self.upload_options)

    def unmark(self) -> None:
        """Take the marker away."""
        self.bucket.delete([self.marker_key])

    def is_marked(self) -> bool:
        """Say whether the marker stands. One HEAD."""
        told = answer(self.bucket, self.marker_key)
        return self.bucket.has(self.marker_key) if told is None else told

    def is_unfinished_by(self, run: str) -> bool:
        """Say whether the marker stands and is this run's. One GET."""
        return self.bucket.get_bytes(self.marker_key) == run.encode()

    def lease(self) -> S3Lease:
        """Give the lease that is an object beside the data."""
        return S3Lease(self.bucket, f"{self.key.removesuffix('/')}{_LEASE_SUFFIX}", self.upload_options)

    def heal(self) -> None:
        """Do nothing: what was staged lies in the run's private folder."""


class S3ObjectStore(_S3Store):
    """One object."""

    def exists(self) -> bool:
        """Say whether the object is there. One HEAD."""
        told = answer(self.bucket, self.key)
        return self.bucket.has(self.key) if told is None else told

    def publish(self, written: Written, record: Metadata | None) -> None:
        """Put the record, then the object in one step; the new record holds the old one, should the second fail."""
        facts = {DIGEST_HEADER: written.fingerprint}
        with processes.lock(self.address):
            if record is not None:
                facts[_RUN_ID] = str(record.get("run_id", ""))
                present = self.bucket.head(self.key)
                own = None if present is None else self._own_record(present, self.stored_record())
                self.write_record({**record, SUPERSEDED: own} if own else record)
            user_metadata = {**self.upload_options.get("Metadata", {}), **facts}
            options = {**self.upload_options, "Metadata": user_metadata}
            etag = transfers.upload(self.bucket, {self.key: written.path}, options)[self.key]
            known.remember(self.bucket, {self.key: Known(etag, user_metadata)})
            if record is None:  # the former record is not that of the new object, and is recognised until it is gone
                self.metadata_bucket.delete([self.metadata_key])
        self.entry().adopt(written.path, etag, written.size_bytes)

    def read_record(self) -> Metadata | None:
        """Give the record of the present object. One HEAD, one GET."""
        return self.look().record

    def look(self) -> Seen:
        """Give what is there. One HEAD, one GET."""
        return self.seen(self.bucket.head(self.key), self.stored_record())

    def seen(self, present: ObjectFacts | None, stored: Metadata | None) -> Seen:
        """Give what is there, if this is what S3 has told of the object and its record."""
        if present is None:
            return seen_without_data(stored)
        own = self._own_record(present, stored)
        return Seen(_fingerprint_of(present), own, None if own is not None else stored)

    def glimpse(self) -> Glimpse:
        """Give what a picture shows. One HEAD, one GET."""
        present, stored = self.bucket.head(self.key), self.stored_record()
        if present is None:
            return Glimpse(exists=False, record=seen_without_data(stored).record)
        entry = self.entry()
        return Glimpse(
            exists=True,
            size_bytes=present.size_bytes,
            fingerprint=_fingerprint_of(present),
            record=self._own_record(present, stored),
            copy=entry.path if entry.is_fresh(present.etag) else None,
        )

    def _own_record(self, present: ObjectFacts, stored: Metadata | None) -> Metadata | None:
        """Give the record of the present object among what is stored, and what that replaced."""
        if stored is None:
            return None
        return next((told for told in kept_in(stored) if _is_of(told, present)), None)

    def fingerprint(self) -> str:
        """Give the digest that was put with the object, else its ETag. One HEAD."""
        return _fingerprint_of(self._head())

    def bytes_to_fetch(self) -> int | None:
        """Give the size of the object, 0 if there is a fresh copy. One HEAD."""
        present = self.bucket.head(self.key)
        if present is None:
            return None
        return 0 if self.entry().is_fresh(present.etag) else present.size_bytes

    @contextlib.contextmanager
    def reading(self, *, force: bool = False) -> Iterator[Present]:
        """Yield the local copy, made now if there is no fresh one. One HEAD, and one GET if it has to be made."""
        present = self._head()

        def fetch(path: Path) -> str:
            nonlocal present
            for _ in range(_DOWNLOADS):
                if transfers.download(self.bucket, [(present, path)]):
                    return present.etag
                present = self._head()  # it was replaced between HEAD and GET, or the connection damages data
            raise _changing(self.address)

        with self.entry().reading(present.etag, present.size_bytes, fetch, force=force) as copy:
            yield Present(copy, lambda: _fingerprint_of(present))

    def _head(self) -> ObjectFacts:
        present = self.bucket.head(self.key)
        if present is None:
            raise self._missing()
        return present

    def _missing(self) -> Exception:
        """Say what is there instead. One listing."""
        below = list(self.bucket.listing(f"{self.key}/", limit=1000))
        if not below:
            return TargetNotFoundError.at(self.address)
        count = f"{len(below)}{' or more' if len(below) == 1000 else ''}"
        message = (
            f"{self.address} is a prefix holding {count} objects, but S3ObjectTarget expects one object. "
            "Use S3PrefixTarget, or name the object in full."
        )
        return TargetShapeError(message)

    def discard(self, *, keep_record: bool = False) -> None:
        """Delete the object, then the record."""
        if keep_record:
            self._let_stay(self.look())
        self.bucket.delete([self.key])
        if not keep_record:
            self.metadata_bucket.delete([self.metadata_key])
        self.unmark()
        self.entry().forget()


class S3PrefixStore(_S3Store):
    """All objects under a prefix; `key` ends in a slash."""

    changes_in_steps = True

    def exists(self) -> bool:
        """Say whether there is an object, and no marker. One listing of the first thousand keys."""
        told = answer(self.bucket, self.key)
        if told is not None:
            return told
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
        return f"{self.key}{UNFINISHED_NAME}"

    def is_unfinished_by(self, run: str) -> bool:
        """Say whether this run marked the prefix, or began to write it, and did not end. Up to two GETs."""
        return super().is_unfinished_by(run) or self.bucket.get_bytes(self._unfinished_key) == run.encode()

    def _is_data(self, item: ObjectFacts) -> bool:
        is_record = item.key == self.metadata_key and self.bucket.name == self.metadata_bucket.name
        return not (is_record or item.key == self._unfinished_key or item.key.endswith("/"))

    def _present(self) -> list[ObjectFacts]:
        """List the objects.

        Raises:
            TargetNotFoundError: there are none, or they are half-written.
            TargetShapeError: an object bears the name of the prefix.
        """
        present = self._whole(list(self.bucket.listing(self.key)))
        if not present:
            raise self._missing()
        return present

    def _whole(self, items: list[ObjectFacts]) -> list[ObjectFacts]:
        """Give the data among what was listed; none if they are half-written."""
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
        for name in local:
            checked_key(f"{self.key}{name}")
        with processes.lock(self.address):
            run = "" if record is None else str(record.get("run_id", ""))
            self.bucket.put_bytes(self._unfinished_key, run.encode(), self.upload_options)
            remote = {item.key: item.etag for item in self._listed()}
            if record is None:
                self.metadata_bucket.delete([self.metadata_key])
            unchanged: dict[str, str] = {}
            changed: dict[str, Path] = {}
            for name, path in local.items():
                key = f"{self.key}{name}"
                etag = remote.pop(key, None)
                if etag is not None and etag == etag_of(path):
                    unchanged[key] = etag
                else:
                    changed[key] = path
            sent = {**unchanged, **transfers.upload(self.bucket, changed, self.upload_options)}
            self.bucket.delete(remote)
            present = self._entries(self._listed())
            fingerprint = files.digest_of_entries(present)
            if record is not None:
                self.write_record({**record, "output": {**record["output"], "fingerprint": fingerprint}})
            self.bucket.delete([self._unfinished_key])
        is_ours_alone = {f"{self.key}{entry.name}": entry.digest for entry in present} == sent
        if is_ours_alone:  # nobody else has written there meanwhile
            self.entry().adopt(written.path, fingerprint, written.size_bytes)

    def _listed(self) -> list[ObjectFacts]:
        return [item for item in self.bucket.listing(self.key) if self._is_data(item)]

    def _fingerprint_of(self, items: list[ObjectFacts]) -> str:
        return files.digest_of_entries(self._entries(items))

    def read_record(self) -> Metadata | None:
        """Give the record of the present objects. One listing, one GET."""
        return self.look().record

    def look(self) -> Seen:
        """Give what is there. One listing, one GET."""
        return self.seen(list(self.bucket.listing(self.key)), self.stored_record())

    def seen(self, items: list[ObjectFacts], stored: Metadata | None) -> Seen:
        """Give what is there, if this is what S3 has told of the objects and their record."""
        data = self._whole(items)
        if not data:
            return Seen(None, stray=stored) if any(map(self._is_data, items)) else seen_without_data(stored)
        fingerprint = self._fingerprint_of(data)
        # A record that was written by hand names no data.
        is_own = output_in(stored).get("fingerprint", fingerprint) == fingerprint
        return Seen(fingerprint, stored, None) if is_own else Seen(fingerprint, None, stored)

    def glimpse(self) -> Glimpse:
        """Give what a picture shows. One listing of the first thousand keys, one GET."""
        items = list(self.bucket.listing(self.key, limit=_KEYS_OF_A_PAGE))
        has_more = len(items) == _KEYS_OF_A_PAGE
        seen = self.seen(items, self.stored_record())
        sizes = [(item.key.removeprefix(self.key), item.size_bytes) for item in items if self._is_data(item)]
        if seen.fingerprint is None:
            return Glimpse(exists=False, record=seen.record)
        return Glimpse(
            exists=True,
            size_bytes=sum(size for _, size in sizes),
            fingerprint=None if has_more else seen.fingerprint,
            record=None if has_more else seen.record,
            contents=tuple(sizes[:MAX_NAMED]),
            files=len(sizes),
            has_more=has_more,
        )

    def fingerprint(self) -> str:
        """Give one digest over names, sizes and ETags. One listing."""
        return self._fingerprint_of(self._present())

    def bytes_to_fetch(self) -> int | None:
        """Give the size of the objects, 0 if there are fresh copies. One listing."""
        present = self._whole(list(self.bucket.listing(self.key)))
        if not present:
            return None
        is_fresh = self.entry().is_fresh(self._fingerprint_of(present))
        return 0 if is_fresh else sum(item.size_bytes for item in present)

    @contextlib.contextmanager
    def reading(self, *, force: bool = False) -> Iterator[Present]:
        """Yield the local copy, made now if there is no fresh one. One listing, and a GET per object."""
        present = self._present()
        fingerprint = self._fingerprint_of(present)

        def fetch(folder: Path) -> str:
            nonlocal present, fingerprint
            for _ in range(_DOWNLOADS):
                if self._downloaded(folder, present):
                    return fingerprint
                files.discard(folder)
                present = self._present()  # it was replaced between listing and GETs, or the connection damages data
                fingerprint = self._fingerprint_of(present)
            raise _changing(self.address)

        size_bytes = sum(item.size_bytes for item in present)
        with self.entry().reading(fingerprint, size_bytes, fetch, force=force) as copy:
            yield Present(copy, lambda: fingerprint)

    def _downloaded(self, folder: Path, items: list[ObjectFacts]) -> bool:
        """Download all objects; say whether they are those that the listing told of."""
        destinations = [(item, folder / item.key.removeprefix(self.key)) for item in items]
        for parent in {path.parent for _, path in destinations}:
            parent.mkdir(parents=True, exist_ok=True)
        try:
            return transfers.download(self.bucket, destinations)
        except TargetNotFoundError:
            return False

    def _missing(self) -> Exception:
        """Say what is there instead. Up to two HEADs."""
        if self.bucket.head(self._unfinished_key) is not None:
            message = f"{self.address} is half-written: an upload broke off or is under way. Run its task again."
            return TargetNotFoundError(message)
        name = self.key.rstrip("/")
        if self.bucket.head(name) is None:
            return TargetNotFoundError.at(self.address)
        address = address_of(self.bucket.name, name)
        message = f"{address} is one object, but S3PrefixTarget expects a prefix. Use S3ObjectTarget."
        return TargetShapeError(message)

    def discard(self, *, keep_record: bool = False) -> None:
        """Delete the objects, then the record; a marker stands meanwhile: half of the objects must not count."""
        if keep_record:
            self._let_stay(self.look())
        if objects := self._listed():
            self.bucket.put_bytes(self._unfinished_key, b"", self.upload_options)
        self.bucket.delete(item.key for item in objects)
        if not keep_record:
            self.metadata_bucket.delete([self.metadata_key])
        self.bucket.delete([self._unfinished_key, self.marker_key])
        self.entry().forget()


def _fingerprint_of(present: ObjectFacts) -> str:
    """Give the digest that was put with the object, else its ETag."""
    return present.digest or f"etag:{present.etag}"


def _is_of(record: Metadata, present: ObjectFacts) -> bool:
    """Say whether a record is this object's own; one that was written by hand names no run."""
    if "run_id" not in record:
        return True
    is_same_run = present.metadata.get(_RUN_ID, record["run_id"]) == record["run_id"]
    return bool(is_same_run and output_in(record).get("fingerprint") == _fingerprint_of(present))


def _changing(address: str) -> StorageError:
    return StorageError(
        "GetObject",
        address,
        "other bytes arrive than S3 told of",
        "Something replaces the data again and again, or the connection damages them. Run again.",
        tries=_DOWNLOADS,
    )
