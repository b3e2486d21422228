"""Looks at many targets in S3 at once: what each `look()` would find, with few requests.

The invariant: what is found of a target is what it would find itself; where what this machine remembers of an object
does not fit the record beside it, S3 is asked.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from superluigi import config
from superluigi.errors import StorageError
from superluigi.storage.concurrency import run_all
from superluigi.storage.looks import Glance, look_again, look_at
from superluigi.storage.s3 import ObjectFacts
from superluigi.targets import metadata
from superluigi.targets.s3 import s3_store
from superluigi.targets.s3_store import S3ObjectStore, S3PrefixStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeAlias

    from superluigi.storage.s3 import Bucket
    from superluigi.targets.base import Target
    from superluigi.targets.metadata import Metadata
    from superluigi.targets.store import Seen

    _Told: TypeAlias = Mapping[str, Glance | StorageError]


def look_together(targets: Iterable[Target]) -> dict[str, Seen | Exception]:
    """Give what is at each target in S3, by its address, or what looking at it raises; others are passed over.

    Data and records of one bucket share listings where these answer many at once. What a listing does not tell, and
    this machine does not know by its ETag, costs a HEAD for data and a GET for a record. A prefix costs a listing of
    its own.
    """
    together = _Together({str(target): store for target in targets if (store := s3_store(target)) is not None})
    together.look()
    return together.found


class _Together:
    """The stores of one call by their addresses, what S3 has told, and what is found."""

    def __init__(self, stores: Mapping[str, S3ObjectStore | S3PrefixStore]) -> None:
        self.found: dict[str, Seen | Exception] = {}
        self._records: defaultdict[Bucket, set[str]] = defaultdict(set)
        for store in stores.values():
            self._records[store.metadata_bucket].add(store.metadata_key)
        self._alone: dict[str, Callable[[], Seen]] = {}
        self._objects: dict[str, S3ObjectStore] = {}
        for name, store in stores.items():
            if store.key in self._records[store.bucket]:  # data that are the record of others
                self._alone[name] = store.look
            elif isinstance(store, S3PrefixStore):
                self._alone[name] = partial(self._prefix, store)
            else:
                self._objects[name] = store
        self._told: dict[Bucket, _Told] = {}
        self._read: dict[tuple[Bucket, str], Metadata | None] = {}

    def look(self) -> None:
        """Ask, and ask again about what does not fit."""
        data: defaultdict[Bucket, set[str]] = defaultdict(set)
        for store in self._objects.values():
            data[store.bucket].add(store.key)
        for bucket in dict.fromkeys([*data, *self._records]):
            self._told[bucket] = _whole(bucket, [*data[bucket], *self._records[bucket]], self._records[bucket])
        for name, store in self._objects.items():
            self._keep(name, partial(self._object, store, self._told[store.bucket]))
        doubtful = {name: store for name, store in self._objects.items() if self._is_doubtful(store, self.found[name])}
        for bucket in {store.bucket for store in doubtful.values()}:
            stores = {name: store for name, store in doubtful.items() if store.bucket == bucket}
            again = _whole(bucket, [store.key for store in stores.values()], None)
            for name, store in stores.items():
                self._keep(name, partial(self._object, store, again))
        run_all(
            [partial(self._keep, name, look) for name, look in self._alone.items()],
            max_concurrency=config.max_concurrency(),
        )

    def _keep(self, name: str, look: Callable[[], Seen]) -> None:
        try:
            self.found[name] = look()
        except Exception as error:  # noqa: BLE001  (it is raised where the target is asked about)
            self.found[name] = error

    def _object(self, store: S3ObjectStore, told: _Told) -> Seen:
        present = _answer(told, store.key)
        facts = None if present is None else ObjectFacts(store.key, 0, present.etag, present.metadata)
        return store.seen(facts, self._record(store))

    def _prefix(self, store: S3PrefixStore) -> Seen:
        return store.seen(list(store.bucket.listing(store.key)), self._record(store))

    def _is_doubtful(self, store: S3ObjectStore, found: Seen | Exception) -> bool:
        """Say whether what is remembered of an object is not what the record beside it says.

        The same bytes may have been put again by another run, which the ETag does not tell.
        """
        present = self._told[store.bucket].get(store.key)
        if isinstance(found, Exception) or not isinstance(present, Glance) or not present.is_recalled:
            return False
        stored = self._record(store)
        return stored is not None and (found.record is None or found.record.get("run_id") != stored.get("run_id"))

    def _record(self, store: S3ObjectStore | S3PrefixStore) -> Metadata | None:
        place = store.metadata_bucket, store.metadata_key
        if place not in self._read:
            glance = _answer(self._told[store.metadata_bucket], store.metadata_key)
            self._read[place] = None if glance is None or glance.data is None else metadata.decode(glance.data)
        return self._read[place]


def _whole(bucket: Bucket, keys: list[str], bodies: set[str] | None) -> _Told:
    """Give what is told of all keys; what stands in the way of the whole bucket is told of each."""
    try:
        return look_again(bucket, keys) if bodies is None else look_at(bucket, keys, bodies)
    except StorageError as error:
        return dict.fromkeys(keys, error)


def _answer(told: _Told, key: str) -> Glance | None:
    answer = told.get(key)
    if isinstance(answer, StorageError):
        raise answer.with_traceback(None)
    return answer
