"""Local copies of remote objects, and the one rule that says whether a copy may be served.

A copy is served only if the fingerprint recorded with it is the remote's now, and its own size and
modification time are as recorded. What was not published is never in here. Every entry is a folder of its
own, named by a hash, so no remote name can reach outside the cache or meet another entry.

    <root>/<endpoint>/<bucket>/<sha256 of kind and key>/copy/<readable name>   the bytes
                                                       /entry.json            what they are a copy of
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from superluigi import config
from superluigi.storage import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
_MAX_NAME_BYTES = 200


def default_root() -> Path:
    """Give where local copies are kept unless a target names another `local_root`."""
    return config.data_dir() / "cache"


def readable_name(key: str) -> str:
    """Give a file name for the last part of a key: the same suffix, and safe on every file system."""
    name = _UNSAFE.sub("_", key.rstrip("/").rpartition("/")[2]).rstrip(". ")
    stem, dot, suffix = name.rpartition(".")
    if len(name.encode()) > _MAX_NAME_BYTES:
        kept = suffix if dot and len(suffix) <= 20 else ""
        room = _MAX_NAME_BYTES - len(kept.encode()) - 1
        name = (stem if kept else name).encode()[:room].decode(errors="ignore") + (f".{kept}" if kept else "")
    if _RESERVED.match(name) or name in ("", ".", ".."):
        name = f"_{name}"
    return name


@dataclass(frozen=True)
class CacheEntry:
    """The place of one remote object or prefix in the cache. `kind` keeps `a` and `a/` apart."""

    root: Path
    endpoint: str
    bucket: str
    kind: str
    key: str

    @property
    def folder(self) -> Path:
        """Where everything of this entry lies."""
        name = hashlib.sha256(f"{self.kind}:{self.key}".encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return self.root / _UNSAFE.sub("_", self.endpoint) / self.bucket / name

    @property
    def path(self) -> Path:
        """Where the copy lies, or would lie."""
        return self.folder / "copy" / readable_name(self.key)

    @property
    def address(self) -> str:
        """The name of the entry's lock."""
        return str(self.folder)

    def is_fresh(self, fingerprint: str) -> bool:
        """Say whether the copy is one of these remote bytes, and untouched since it was made."""
        try:
            facts = json.loads((self.folder / "entry.json").read_bytes())
            return bool(facts["fingerprint"] == fingerprint and facts["stamp"] == files.changed_stamp(self.path))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextlib.contextmanager
    def reading(self, fingerprint: str, fetch: Callable[[Path], None], *, force: bool = False) -> Iterator[Path]:
        """Yield the path of a fresh copy; nobody replaces or evicts it while the block runs.

        `fetch` is called with a path that is not there yet, only if there is no fresh copy, and by one process of
        several that ask at once.
        """
        with files.lock(self.address):
            if force or not self.is_fresh(fingerprint):
                with self._staging() as staging:
                    staged = staging / self.path.name
                    fetch(staged)
                    self._install(staged, fingerprint)
            else:
                os.utime(self.folder / "entry.json")  # the time of last use, for eviction
            yield self.path

    def adopt(self, staged: Path, fingerprint: str) -> None:
        """Take bytes that were published under this fingerprint as the copy; `staged` is moved."""
        with files.lock(self.address):
            self._install(staged, fingerprint)

    def forget(self) -> None:
        """Remove the copy."""
        with files.lock(self.address):
            files.discard(self.folder)

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        staging = self.folder / f"{secrets.token_hex(4)}.partial"
        self._sweep()
        staging.mkdir(parents=True)
        try:
            yield staging
        finally:
            files.discard(staging)

    def _sweep(self) -> None:
        """Remove what a killed downloader left; the lock is held, so nobody else is at work here."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                if name.endswith(".partial"):
                    files.discard(self.folder / name)

    def _install(self, staged: Path, fingerprint: str) -> None:
        """Bytes before facts: facts that speak of other bytes do not match their stamp, so a crash between is safe."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "entry.json").unlink(missing_ok=True)
        files.discard(self.path)
        files.move(staged, self.path)
        facts = {
            "fingerprint": fingerprint,
            "stamp": files.changed_stamp(self.path),
            "bucket": self.bucket,
            "key": self.key,
        }
        files.write_atomically(self.folder / "entry.json", json.dumps(facts).encode(), self.folder)
