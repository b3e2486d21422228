"""Looks at many objects of a bucket: what a HEAD would tell of some, and the bytes of others, with few requests.

Listings tell which are there, and under which ETags; what this machine knows under the same ETags is not asked again
(`known`), and the rest is asked one by one, many at a time, by obstore where it is installed. The invariant: each
answer is of an object as it was in the course of the call, whoever gives it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from superluigi.errors import StorageError
from superluigi.storage import existence, fast, known
from superluigi.storage.concurrency import run_all
from superluigi.storage.existence import Page
from superluigi.storage.known import Known
from superluigi.storage.s3_errors import OF_THE_WHOLE_BUCKET

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from superluigi.storage.fast import Engine
    from superluigi.storage.s3 import Bucket

_MANY = 100  # requests, from which on the extra `fast` is used: a process that used it hands none on to its forks


@dataclass(frozen=True, slots=True)
class Glance:
    """An object that is there: its own metadata if a HEAD was wanted, its bytes if a GET was.

    `is_recalled` if S3 told no more than its ETag, and this machine knew the rest.
    """

    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    data: bytes | None = None
    is_recalled: bool = False


def look_at(bucket: Bucket, heads: Collection[str], bodies: Collection[str]) -> dict[str, Glance | StorageError]:
    """Give what is there of the keys, or why one cannot be asked. `bodies` are the keys of small objects to be read.

    One listing for every thousand keys where that answers many of them; a HEAD or GET for what is not known by its
    ETag, or for each, `max_concurrency` at a time.

    Raises:
        StorageError: the whole bucket cannot be asked.
    """
    looking = _Looking(bucket, frozenset(bodies))
    told = existence.find(looking, {*heads, *bodies}, max_concurrency=looking.max_concurrency)
    etags = {key: one.etag for key, one in told.items() if isinstance(one, _Listed)}
    recalled = known.recall(bucket, etags)
    found: dict[str, Glance | StorageError] = {}
    for key, one in told.items():
        if not isinstance(one, _Listed):
            found[key] = one
        elif key in recalled and (recalled[key].data is not None) == (key in looking.bodies):
            found[key] = Glance(one.etag, recalled[key].metadata, recalled[key].data, is_recalled=True)
    found.update(looking.asked([key for key in etags if key not in found]))
    return found


def look_again(bucket: Bucket, heads: Collection[str]) -> dict[str, Glance | StorageError]:
    """Give what HEADs tell of objects, whatever is known of them."""
    return _Looking(bucket, frozenset()).asked(heads)


@dataclass(frozen=True, slots=True)
class _Listed:
    """An object of which a listing has told."""

    etag: str


_Answer: TypeAlias = "Glance | StorageError | _Listed"


class _Looking:
    """One bucket, asked in the course of one call."""

    def __init__(self, bucket: Bucket, bodies: frozenset[str]) -> None:
        self.bucket = bucket
        self.bodies = bodies
        self.max_concurrency = bucket.max_concurrency()
        self._engine: Engine | None = None

    @property
    def name(self) -> str:
        return self.bucket.name

    def page(self, prefix: str, start_after: str) -> Page[_Answer]:
        page = self.bucket.page(prefix, start_after)
        found: dict[str, _Answer] = {key: _Listed(facts.etag) for key, facts in page.found.items()}
        return Page(found, page.is_last)

    def ask(self, key: str) -> Glance | StorageError | None:
        """Give what is told of one object, or why it is not, so that the others are asked all the same."""
        if self._engine is not None and self._engine.is_for(key):
            try:
                return self._asked_fast(self._engine, key)
            except Exception:  # noqa: BLE001  (boto3 tries again, and tells what is wrong)
                self._engine.failed()
        try:
            if key in self.bodies:
                seen = self.bucket.snapshot(key)
                return None if seen is None else Glance(seen.etag, data=seen.data)
            facts = self.bucket.head(key)
        except OF_THE_WHOLE_BUCKET:
            raise
        except StorageError as error:
            return error
        return None if facts is None else Glance(facts.etag, facts.metadata)

    def _asked_fast(self, engine: Engine, key: str) -> Glance:
        if key in self.bodies:
            data, etag = engine.look(key)
            return Glance(etag, data=data)
        etag, metadata = engine.head(key)
        return Glance(etag, metadata)

    def asked(self, keys: Collection[str]) -> dict[str, Glance | StorageError]:
        """Ask for many objects that are most likely there, and keep what is told of them."""
        found: dict[str, Glance | StorageError] = {}

        def ask(key: str) -> None:
            if (told := self.ask(key)) is not None:
                found[key] = told

        self._engine = fast.engine(self.bucket, {}) if len(keys) >= _MANY else None
        places = () if self._engine is None else (self._engine.max_concurrency,)
        run_all([partial(ask, key) for key in keys], max_concurrency=self.bucket.max_concurrency(*places))
        told = {key: Known(one.etag, one.metadata, one.data) for key, one in found.items() if isinstance(one, Glance)}
        known.remember(self.bucket, told)
        return found
