"""Which of many objects are there, with few requests: listings where they answer much, single ones for the rest.

Nothing here knows what a request looks like, nor what an answer says; `Objects` makes them. The rule: keys are taken in
the order of S3's own listings, each page begins right before the next key that is asked for, and a page is worth its
price if it answers as many keys as there are requests at a time. Where one answers fewer, the next stretch of keys is
asked one by one, each time four times as long, so that a listing that leads nowhere costs a handful of pages.
"""

from __future__ import annotations

import bisect
import itertools
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from superluigi.errors import AccessDeniedError
from superluigi.storage.addresses import is_directory_bucket
from superluigi.storage.concurrency import run_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from superluigi.storage.concurrency import Call

PAGE_KEYS = 1000
_FIRST_STRETCH = 8  # times `max_concurrency`: so many keys are asked one by one after a page that did not pay
_LAST_CHARACTER = "\U0010ffff"
_MAX_START_BYTES = 1024


Answer = TypeVar("Answer")  # what is told of an object that is there


@dataclass(frozen=True, slots=True)
class Page(Generic[Answer]):
    """What one listing tells by key, in order, and whether there are more behind."""

    found: Mapping[str, Answer]
    is_last: bool


class Objects(Protocol[Answer]):
    """What can be asked of a bucket."""

    @property
    def name(self) -> str:
        """The name of the bucket."""

    def ask(self, key: str) -> Answer | None:
        """Give what is told of one object, None if it is not there. One request."""

    def page(self, prefix: str, start_after: str) -> Page[Answer]:
        """Give up to a thousand objects whose keys have this prefix and come after `start_after`. One listing."""


def find(objects: Objects[Answer], keys: Iterable[str], *, max_concurrency: int) -> dict[str, Answer]:
    """Give those of the keys that are there, with what is told of them."""
    # By code points, which is the order of the bytes in UTF-8, and so that of S3. No object has an empty key.
    search = _Search(objects, sorted(set(keys) - {""}), max_concurrency)
    run_all(search.begin(), max_concurrency=max_concurrency)
    return search.found


class _Search(Generic[Answer]):
    """The keys that are asked for, in order, and what has been found."""

    def __init__(self, objects: Objects[Answer], keys: list[str], max_concurrency: int) -> None:
        self.objects = objects
        self.keys = keys
        self.found: dict[str, Answer] = {}
        self.max_concurrency = max_concurrency
        self.worthwhile = max(2, max_concurrency)  # keys that a page has to answer; to S3's bill it is 12 HEADs
        # The listings of directory buckets have no order: the S3 user guide, "Differences for directory buckets".
        self.is_listing = not is_directory_bucket(objects.name)

    def begin(self) -> list[Call]:
        return self.search(0, len(self.keys), _FIRST_STRETCH * self.max_concurrency)

    def search(self, start: int, end: int, stretch: int) -> list[Call]:
        """Give what has to be asked about keys[start:end]."""
        if not self.is_listing or end - start <= self.worthwhile:
            return [partial(self.ask, key) for key in self.keys[start:end]]
        return [partial(self.look_through, start, end, stretch)]

    def ask(self, key: str) -> None:
        told = self.objects.ask(key)
        if told is not None:
            self.found[key] = told

    def look_through(self, start: int, end: int, stretch: int) -> list[Call]:
        if not self.is_listing:
            return self.search(start, end, stretch)
        first, last = self.keys[start], self.keys[end - 1]
        start_after = _right_before(first)
        try:
            common = os.path.commonprefix([first, last])  # noqa: RUF071  (character by character is what is meant)
            page = self.objects.page(common, start_after)
        except AccessDeniedError:  # credentials that may read objects need not be allowed to list them
            self.is_listing = False
            return self.search(start, end, stretch)
        keys = list(page.found)
        if not _is_in_order(keys, start_after):
            self.is_listing = False  # a store that is not quite S3
            return self.search(start, end, stretch)
        reached = keys[-1] if keys else start_after
        answered = end if page.is_last else bisect.bisect_right(self.keys, reached, start, end)
        self.found.update((key, page.found[key]) for key in self.keys[start:answered] if key in page.found)
        if answered - start >= self.worthwhile:
            return self.share(answered, end)
        one_by_one = min(end, answered + stretch)
        heads: list[Call] = [partial(self.ask, key) for key in self.keys[answered:one_by_one]]
        return [*self.search(one_by_one, end, 4 * stretch), *heads]

    def share(self, start: int, end: int) -> list[Call]:
        """Go on listing, in several places at once: a place for every page that is full of what is asked for."""
        places = max(1, min(self.max_concurrency, (end - start) // PAGE_KEYS))
        bounds = [start + (end - start) * place // places for place in range(places + 1)]
        stretch = _FIRST_STRETCH * self.max_concurrency
        return [call for left, right in itertools.pairwise(bounds) for call in self.search(left, right, stretch)]


def _right_before(key: str) -> str:
    """Give a text that comes before `key`, with as few others as can be between the two."""
    head, code = key[:-1], ord(key[-1])
    code = 0xD7FF if code == 0xE000 else code - 1  # what lies between are surrogates, which UTF-8 does not have
    before = f"{head}{chr(code)}{_LAST_CHARACTER}"
    return before if code >= ord(" ") and len(before.encode()) <= _MAX_START_BYTES else head


def _is_in_order(keys: Sequence[str], start_after: str) -> bool:
    return all(left < right for left, right in itertools.pairwise([start_after, *keys]))
