"""What this machine knows of objects in S3, each by its ETag: what a HEAD told of it, and the bytes of small ones.

A listing tells the ETags of a thousand objects; what is known under the same ETag need not be asked again. The
invariant: an answer holds for the ETag that S3 tells now, and is given only if it is as it was written, so a damaged or
lost file costs requests and nothing else. One SQLite file in the data directory, of bounded size; processes and threads
share it, and who only looks (`workplace.hands_off`) does not write.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from superluigi import config
from superluigi.storage import workplace

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from superluigi.storage.s3 import Bucket

MAX_BYTES = 256 << 20  # of the file: the records of a hundred thousand tasks
MAX_OBJECT_BYTES = 1 << 20

_WAIT_S = 2.0  # for another process that writes
_KEYS_AT_A_TIME = 500
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS objects "
    "(number INTEGER PRIMARY KEY, place TEXT, key TEXT, etag TEXT, facts TEXT, data BLOB, digest BLOB, "
    "UNIQUE (place, key))"
)


@dataclass(frozen=True, slots=True)
class Known:
    """An object as it was under an ETag: its own metadata from a HEAD, or its bytes from a GET."""

    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    data: bytes | None = None


def recall(bucket: Bucket, etags: Mapping[str, str]) -> dict[str, Known]:
    """Give what is known, by key, of objects that have these ETags. Asks nobody."""
    found: dict[str, Known] = {}
    keys = list(etags)
    if not keys or not _path().exists():
        return found
    place = _place(bucket)

    def read(database: sqlite3.Connection) -> None:
        for start in range(0, len(keys), _KEYS_AT_A_TIME):
            asked = keys[start : start + _KEYS_AT_A_TIME]
            marks = ",".join("?" * len(asked))
            query = f"SELECT key, etag, facts, data, digest FROM objects WHERE place = ? AND key IN ({marks})"  # noqa: S608
            for key, etag, facts, data, digest in database.execute(query, (place, *asked)):
                if etag == etags.get(key) and digest == _digest(place, key, etag, facts, data):
                    found[key] = Known(etag, json.loads(facts), data)

    _with_database(read, for_writing=False)
    return found


def remember(bucket: Bucket, known: Mapping[str, Known]) -> None:
    """Keep what S3 has told of objects; what was known of them before is given up, and at last the oldest of all."""
    if not known or workplace.is_hands_off():
        return
    place = _place(bucket)
    rows = []
    for key, one in known.items():
        if len(one.data or b"") <= MAX_OBJECT_BYTES:
            facts = json.dumps(dict(one.metadata))
            rows.append((place, key, one.etag, facts, one.data, _digest(place, key, one.etag, facts, one.data)))

    def write(database: sqlite3.Connection) -> None:
        with database:
            database.executemany(
                "INSERT OR REPLACE INTO objects (place, key, etag, facts, data, digest) VALUES (?, ?, ?, ?, ?, ?)", rows
            )
            _shorten(database)

    _with_database(write, for_writing=True)


def _shorten(database: sqlite3.Connection) -> None:
    pages, free, page_bytes = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    if (pages - free) * page_bytes > MAX_BYTES:
        (count,) = database.execute("SELECT count(*) FROM objects").fetchone()
        oldest = "SELECT number FROM objects ORDER BY number LIMIT ?"
        database.execute(f"DELETE FROM objects WHERE number IN ({oldest})", (max(1, count // 4),))  # noqa: S608  (a constant)


def _place(bucket: Bucket) -> str:
    return f"{bucket.endpoint()}\n{bucket.name}"


def _digest(*parts: str | bytes | None) -> bytes:
    summed = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = b"" if part is None else part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        summed.update(b"%d:" % len(data))
        summed.update(data)
    return summed.digest()


def _path() -> Path:
    return config.data_dir() / "known" / "objects.sqlite3"


def _with_database(work: Callable[[sqlite3.Connection], None], *, for_writing: bool) -> None:
    """Let something work on the open file; nothing is done where that goes wrong, and a damaged file is given up.

    Nothing is flushed to the disk, nor is a journal: what a power cut or a kill leaves is noticed by the digests.
    """
    try:
        import sqlite3
    except ImportError:  # a Python that was built without it
        return
    path = _path()
    try:
        if for_writing:
            # What a bucket holds is not for everybody. SQLite alone opens the file: whoever closes it lets go the
            # locks that other threads have on it, see "How To Corrupt An SQLite Database File", 2.2.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        address = f"file:{quote(os.fspath(path))}?mode={'rwc' if for_writing else 'ro'}"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_WAIT_S)) as database:
            if for_writing:
                database.execute("PRAGMA synchronous = OFF")
                database.execute("PRAGMA journal_mode = MEMORY")
                database.execute(_SCHEMA)
            work(database)
    except (sqlite3.OperationalError, OSError):  # others are at work, or the disk is full, or it may not be written to
        return
    except (sqlite3.DatabaseError, ValueError):
        if for_writing:
            with contextlib.suppress(OSError):
                path.unlink()
