"""Local copies of remote objects, and the one rule that says whether a copy may be served.

A copy is served only if the fingerprint recorded with it is the remote's now, and its own size and
modification time are as recorded. What was not published is never in here. Every entry is a folder of its
own, named by a hash, so no remote name can reach outside the cache or meet another entry.

    <root>/<endpoint>/<bucket>/<sha256 of all four>/copy/<readable name>   the bytes
                                                   /entry.json            what they are a copy of

The cache is bounded: `[superluigi] cache_max_bytes`, and `cache_min_free_bytes` of the disk that stay free (a
twentieth of a small disk); the least recently used copies go first, and none that is in use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from superluigi import config
from superluigi.errors import DiskFullError
from superluigi.storage import files, processes, workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_UNSAFE = r'[\x00-\x1f\x7f<>:"/\\|?*]'
_RESERVED = r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(\.|$)"
_MAX_NAME_BYTES = 200
_FACTS_NAME = "entry.json"
_USAGE_NAME = "usage.json"
_KEPT_SHARE = 0.9  # once the limit is reached so much is kept, so that not every download has to count anew


def default_root() -> Path:
    """Give where local copies are kept unless a target names another `local_root`."""
    return config.data_dir() / "cache"


def readable_name(key: str) -> str:
    """Give a file name for the last part of a key: the same suffix, and safe on every file system."""
    name = re.sub(_UNSAFE, "_", key.rstrip("/").rpartition("/")[2]).rstrip(". ")
    stem, dot, suffix = name.rpartition(".")
    if len(name.encode()) > _MAX_NAME_BYTES:
        kept = suffix if dot and len(suffix) <= 20 else ""
        room = _MAX_NAME_BYTES - len(kept.encode()) - 1
        name = (stem if kept else name).encode()[:room].decode(errors="ignore") + (f".{kept}" if kept else "")
    if re.match(_RESERVED, name) or name in ("", ".", ".."):
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
        whole = f"{self.endpoint}\n{self.bucket}\n{self.kind}\n{self.key}"
        name = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        endpoint, bucket = (readable_name(re.sub(_UNSAFE, "_", part)) for part in (self.endpoint, self.bucket))
        return self.root / endpoint / bucket / name

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
            facts = json.loads((self.folder / _FACTS_NAME).read_bytes())
            return bool(facts["fingerprint"] == fingerprint and facts["stamp"] == files.changed_stamp(self.path))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextlib.contextmanager
    def reading(
        self, fingerprint: str, size_bytes: int, fetch: Callable[[Path], str], *, force: bool = False
    ) -> Iterator[Path]:
        """Yield the path of a fresh copy; nobody replaces or evicts it while the block runs.

        `fetch` is called with a path that is not there yet, only if there is no fresh copy, and by one process of
        several that ask at once. It gives the fingerprint of what it fetched, which may be newer than the one asked.

        Raises:
            DiskFullError: there is no room for `size_bytes`, also after everything else was evicted.
        """
        with processes.lock(self.address):
            if force or not self.is_fresh(fingerprint):
                make_room(self.root, size_bytes)
                with workplace.private_folder() as folder:
                    staged = folder / self.path.name
                    self._install(staged, fetch(staged), size_bytes)
            else:
                os.utime(self.folder / _FACTS_NAME)  # the time of last use, for eviction
            yield self.path

    def adopt(self, staged: Path, fingerprint: str, size_bytes: int) -> None:
        """Take bytes that were published under this fingerprint as the copy; `staged` is moved.

        The bytes are published whatever happens here: where they find no place they are just not kept.
        """
        if size_bytes <= config.cache_max_bytes():
            with contextlib.suppress(OSError), processes.lock(self.address):
                make_room(self.root, size_bytes, on_disk_already=True)
                self._install(staged, fingerprint, size_bytes)

    def forget(self) -> None:
        """Remove the copy."""
        with processes.lock(self.address):
            files.discard(self.folder)

    def _install(self, staged: Path, fingerprint: str, size_bytes: int) -> None:
        """Facts away, bytes, facts: without facts, or with torn ones, a copy is not served, so a crash is safe."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / _FACTS_NAME).unlink(missing_ok=True)
        files.discard(self.path)
        files.move(staged, self.path)
        facts = {
            "fingerprint": fingerprint,
            "stamp": files.changed_stamp(self.path),
            "size_bytes": size_bytes,
            "bucket": self.bucket,
            "key": self.key,
        }
        (self.folder / _FACTS_NAME).write_text(json.dumps(facts), encoding="utf-8")


# How much may lie there


def make_room(root: Path, size_bytes: int, *, on_disk_already: bool = False) -> None:
    """Evict the least recently used copies until there is room for so many bytes more.

    How much lies there is kept in `usage.json` and counted anew whenever the limit is reached, so that the usual
    call reads one small file. Copies that are being read or made are left alone.

    Raises:
        DiskFullError: the disk has no room, also after everything that could be was evicted.
    """
    root.mkdir(parents=True, exist_ok=True)
    wanted = 0 if on_disk_already else size_bytes
    limit = config.cache_max_bytes()
    with processes.file_lock(root / "usage.lock"):
        used = _recorded_usage(root)
        if used is None or used + size_bytes > limit or not _has_room(root, wanted):
            used = _evict(root, int(limit * _KEPT_SHARE) - size_bytes, wanted)
        (root / _USAGE_NAME).write_text(json.dumps({"bytes": used + size_bytes}), encoding="utf-8")
    free = shutil.disk_usage(root).free
    if wanted > free:
        problem = f"{size_bytes} bytes have to be kept, but {free} are free and nothing more can be evicted"
        raise DiskFullError("cache", str(root), problem, "Free some space, or let local_data_dir be on another disk.")


def give_up_all(root: Path) -> None:
    """Evict every copy that is not in use: the disk is full."""
    with contextlib.suppress(FileNotFoundError), processes.file_lock(root / "usage.lock"):
        (root / _USAGE_NAME).unlink(missing_ok=True)  # so that it is counted anew; there may be no room to write it
        _evict(root, 0, shutil.disk_usage(root).total)


# What the user asks of it


@dataclass(frozen=True, slots=True)
class Usage:
    """What lies in a cache, and what may."""

    root: Path
    copies: int
    size_bytes: int
    max_bytes: int
    min_free_bytes: int
    disk_free_bytes: int


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed from a cache, what is left of it, and how many copies stayed because somebody used them."""

    copies: int
    size_bytes: int
    kept_bytes: int
    in_use: int


def usage(root: Path) -> Usage:
    """Give what lies in a cache. Reads one small file a copy; touches nothing, also where there is no cache yet."""
    sizes = [size_bytes for _, _, size_bytes in _entries(root)]
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    disk = shutil.disk_usage(place)
    return Usage(root, len(sizes), sum(sizes), config.cache_max_bytes(), _reserve(disk.total), disk.free)


def clear(root: Path) -> Removal:
    """Remove every copy that no process is using. Safe beside runs: what they need they fetch again."""
    return _remove(root, None)


def prune(root: Path, max_bytes: int) -> Removal:
    """Remove the least recently used copies, and none in use, until no more than so many bytes are left."""
    return _remove(root, max_bytes)


def _remove(root: Path, max_bytes: int | None) -> Removal:
    if not root.is_dir():
        return Removal(0, 0, 0, 0)
    with processes.file_lock(root / "usage.lock"):
        removal = _discard_until(root, lambda kept: max_bytes is not None and kept <= max_bytes)
        (root / _USAGE_NAME).write_text(json.dumps({"bytes": removal.kept_bytes}), encoding="utf-8")
    return removal


def _has_room(root: Path, size_bytes: int) -> bool:
    disk = shutil.disk_usage(root)
    return disk.free - size_bytes >= _reserve(disk.total)


def _reserve(disk_bytes: int) -> int:
    return min(config.cache_min_free_bytes(), disk_bytes // 20)


def _recorded_usage(root: Path) -> int | None:
    try:
        return int(json.loads((root / _USAGE_NAME).read_bytes())["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entries(root: Path) -> list[tuple[float, Path, int]]:
    """Give the time of last use, folder and size of every copy; a half-made one counts as never used."""
    found = []
    for folder in root.glob("*/*/*"):
        try:
            facts = folder / _FACTS_NAME
            found.append((facts.stat().st_mtime, folder, int(json.loads(facts.read_bytes())["size_bytes"])))
        except (OSError, ValueError, KeyError, TypeError):
            found.append((0.0, folder, 0))
    return sorted(found)


def _evict(root: Path, kept_bytes: int, wanted_bytes: int) -> int:
    """Remove copies until both limits are kept; give what is left, in bytes."""
    return _discard_until(root, lambda kept: kept <= kept_bytes and _has_room(root, wanted_bytes)).kept_bytes


def _discard_until(root: Path, is_enough: Callable[[int], bool]) -> Removal:
    """Remove copies, the least recently used first, until so many bytes left are said to be enough; none in use."""
    entries = _entries(root)
    kept = sum(size_bytes for _, _, size_bytes in entries)
    copies = removed = in_use = 0
    for _, folder, size_bytes in entries:
        if is_enough(kept):
            break
        try:
            with processes.lock(str(folder), wait=False):
                files.discard(folder)
        except BlockingIOError:
            in_use += 1
            continue
        copies, removed, kept = copies + 1, removed + size_bytes, kept - size_bytes
    return Removal(copies, removed, kept, in_use)
