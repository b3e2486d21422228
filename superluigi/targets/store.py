"""What a target is made of: a shape, a place that keeps the bytes, and the facts that travel between the two.

Nothing here changes anything; every place keeps the `Store` protocol, and one suite of tests holds them to it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from superluigi.storage import files
from superluigi.targets.metadata import REMOVED

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from superluigi.storage.leases import Lease
    from superluigi.targets.metadata import Metadata


class Shape(enum.Enum):
    """What stands at the target's path."""

    FILE = "one file"
    FOLDER = "a folder of files"


@dataclass(frozen=True, slots=True)
class Written:
    """What is known of bytes that were written and not yet published."""

    path: Path
    size_bytes: int
    fingerprint: str
    stamp: str
    entries: tuple[files.Entry, ...] | None
    inside: str | None = None

    def is_untouched(self) -> bool:
        """Say whether these very bytes are still where they were written: they were not published, nor swapped."""
        try:
            return files.changed_stamp(self.path, leave_out=self.inside) == self.stamp
        except OSError:
            return False

    def facts(self, contents_limit: int) -> Metadata:
        """Give them as the lineage record holds them."""
        facts: Metadata = {"size_bytes": self.size_bytes, "fingerprint": self.fingerprint}
        if self.entries is not None:
            facts["files"] = len(self.entries)
            facts["contents"] = [
                {"name": entry.name, "size_bytes": entry.size_bytes, "digest": entry.digest}
                for entry in self.entries[:contents_limit]
            ]
        return facts


@dataclass(frozen=True, slots=True)
class Present:
    """Data that can be read while a `reading` block runs, and a function that gives their fingerprint then."""

    path: Path
    fingerprint: Callable[[], str]
    stamp: str | None = None  # see `Store.stamp`


@dataclass(frozen=True, slots=True)
class ReadCopy:
    """A private copy, and the fingerprint of the bytes that it was made from."""

    path: Path
    fingerprint: str | None
    stamp: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What is found at a target: the data, by their fingerprint, and the record beside them.

    `fingerprint` is None if there are no data; `record` is that of the present data, or of data that were removed while
    their record was kept; `stray` is a record of other data: of the former ones, or of a publication that broke off.
    """

    fingerprint: str | None
    record: Metadata | None = None
    stray: Metadata | None = None


def seen_without_data(stored: Metadata | None) -> Seen:
    """Give what is found where there are no data, but perhaps a record."""
    is_removed = stored is not None and REMOVED in stored
    return Seen(None, stored if is_removed else None, None if is_removed else stored)


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a picture shows of a target; `record` as in `Seen`.

    `size_bytes` and `files` count what is named in `contents`, or more of it than is named; both are None if there are
    no data, and `has_more` says that there are others which were not counted: then neither the fingerprint nor the
    record is known. `copy` is where the data can be read on this disk as they are now, None if that takes a download.
    """

    exists: bool
    size_bytes: int | None = None
    fingerprint: str | None = None
    record: Metadata | None = None
    contents: tuple[tuple[str, int], ...] = ()
    files: int | None = None
    has_more: bool = False
    copy: Path | None = None


MAX_NAMED = 10  # files whose names a picture shows
MAX_COUNTED = 10_000  # files of a folder that are looked at for a picture; of a prefix the first thousand
MAX_DIGESTED_BYTES = 16 << 20  # data that are read for a picture, to tell whether their record is their own


class Store(Protocol):
    """A place that holds the data and the record of one target."""

    @property
    def address(self) -> str:
        """The name of the place, the same from every working directory: by it the place is locked."""

    @property
    def changes_in_steps(self) -> bool:
        """Whether `publish` takes several steps, so that a journal has to say how to end it."""

    def exists(self) -> bool:
        """Say whether the data are there, whole."""

    def staging(self) -> AbstractContextManager[Path]:
        """Yield an empty folder from which `publish` is one cheap step; it is removed afterwards."""

    def publish(self, written: Written, record: Metadata | None) -> None:
        """Replace data and record: the record first, the data in one step. `written.path` may be moved."""

    def reading(self, *, force: bool = False) -> AbstractContextManager[Present]:
        """Yield where the present data can be read, whole and unchanged while the block runs."""

    def read_record(self) -> Metadata | None:
        """Give the record of the present data, or of data that were removed while their record was kept.

        None if there is none, or it is another run's, or damaged.
        """

    def look(self) -> Seen:
        """Give what is there. Reads local data only if they are not as recorded; in S3 one HEAD or listing, one GET."""

    def glimpse(self) -> Glimpse:
        """Give what a picture shows; changes nothing, not even what a killed process left.

        Of local data little is read. In S3 a HEAD, or a listing of the first thousand keys, and a GET; no data.
        """

    def write_record(self, record: Metadata) -> None:
        """Replace the record in one step."""

    def fingerprint(self) -> str:
        """Give what changes when the present data change."""

    def stamp(self) -> str | None:
        """Give what is the same as long as local data without a record are untouched, so that they need not be read.

        None where the fingerprint is as cheap: a record tells it, or S3; and where there are no data.
        """

    def bytes_to_fetch(self) -> int | None:
        """Give how many bytes reading would bring here: none of local data, nor where there is a fresh copy.

        None if there are no data. One HEAD or listing in S3.
        """

    def stored_record(self) -> Metadata | None:
        """Give the record as it lies there, be it of other data; None if there is none that can be read."""

    def mark(self, run: str) -> None:
        """Put the intent marker of a task whose outputs change in several steps; until `unmark` it is not complete."""

    def unmark(self) -> None:
        """Take the marker away: all steps are done."""

    def is_marked(self) -> bool:
        """Say whether the steps were begun and not ended."""

    def is_unfinished_by(self, run: str) -> bool:
        """Say whether this very run marked the place, or began to publish in several steps, and did not end it."""

    def lease(self) -> Lease:
        """Give the right to make these data, which one process at a time can take; costs no request."""

    def heal(self) -> None:
        """Clear what a killed process left here; costs no request."""

    def discard(self, *, keep_record: bool = False) -> None:
        """Remove data in one step, then the record; what is not there is no error.

        `keep_record` lets the record stay; it then says when the data were removed.
        """
