"""Targets on the local disk: one file, or a folder that is replaced whole.

Staging lies beside the destination in the folder `.superluigi`, so one `stat` tells whether a killed run can have
left anything. The invariant: the record is in place before the data are, and while both change, the new record
holds the old one (`superseded`), so that whichever data stand there have a record that is theirs.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from superluigi.errors import InvalidNameError, TargetNotFoundError, TargetShapeError
from superluigi.storage import files, processes, workplace
from superluigi.storage.addresses import is_address
from superluigi.storage.leases import LockFile
from superluigi.targets import metadata
from superluigi.targets.base import Target
from superluigi.targets.metadata import RECORD_SUFFIX, SUPERSEDED, kept_in, output_in
from superluigi.targets.publishing import recover_abandoned
from superluigi.targets.store import (
    MAX_COUNTED,
    MAX_DIGESTED_BYTES,
    MAX_NAMED,
    Glimpse,
    Present,
    Seen,
    Shape,
    Written,
    seen_without_data,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from superluigi.targets.metadata import Metadata

_MARKER_SUFFIX = ".intent"
_MAX_RECORDED = 1 << 16

# The fingerprints that records told of data that look like this: many tasks may read the same input in one run.
_recorded: dict[str, tuple[tuple[str, int], str]] = {}


@dataclass(frozen=True)
class LocalStore:
    """One file or folder of the local disk."""

    path: Path
    metadata_path: Path
    shape: Shape
    other_shape: str

    @property
    def address(self) -> str:
        """The path, which is absolute."""
        return str(self.path)

    @property
    def changes_in_steps(self) -> bool:
        """Whether there are data: then their record is kept in the new one until they are replaced."""
        return not self._record_is_inside and os.path.exists(self.path)

    @functools.cached_property
    def _place(self) -> Path:
        return self.path.parent / workplace.STAGING_NAME

    @property
    def _marker(self) -> Path:
        return self._place / files.name_beside(self.path.name, _MARKER_SUFFIX)

    @property
    def _record_is_inside(self) -> bool:
        return self.inside_name is not None

    @functools.cached_property
    def inside_name(self) -> str | None:
        """The name of the record, where it lies in the folder itself."""
        return self.metadata_path.name if self.metadata_path.parent == self.path else None

    def exists(self) -> bool:
        """Say whether the data are there; clears what a killed run left. One `stat`, one listing of the staging.

        In a run the staging is listed once.
        """
        return self._present() is not None

    def _present(self, *, heals: bool = True) -> os.stat_result | None:
        """Give what the system tells of the data, None if there are none; see `exists`."""
        if heals and not workplace.is_hands_off() and workplace.needs_clearing(self._place):
            recover_abandoned()
            self.heal()
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(found.st_mode) != (self.shape is Shape.FOLDER):
            kind = "a file" if self.shape is Shape.FOLDER else "a folder"
            message = f"{self.path} is {kind}, but {self.shape.value} was expected. Use {self.other_shape}."
            raise TargetShapeError(message)
        return None if self._holds_only_its_record() else found

    def _holds_only_its_record(self) -> bool:
        """Say whether that is all that was left of a folder. One listing where the record lies inside."""
        if self.shape is Shape.FILE or self.inside_name is None or not self.path.is_dir():
            return False
        with os.scandir(self.path) as entries:
            return [entry.name for entry in itertools.islice(entries, 2)] == [self.inside_name]

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder beside the destination. Raises TargetShapeError if the other shape stands there."""
        self.exists()
        with contextlib.ExitStack() as stack:
            with files.translated("stage", self.path):
                folder = stack.enter_context(workplace.staging_folder(self._place))
            yield folder

    def heal(self) -> None:
        """Clear what a killed run left, and let the record be that of the data."""
        workplace.clear(self._place)
        with contextlib.suppress(OSError), processes.lock(str(self.path)):
            self._settle_record()

    def publish(self, written: Written, record: Metadata | None) -> None:
        """Replace record and data, in this order; safe between processes on one machine."""
        with files.translated("publish", self.path), processes.lock(str(self.path)):
            self._publish(written, record)

    def _publish(self, written: Written, record: Metadata | None) -> None:
        if record is not None and self._record_is_inside:
            inside = written.path / self.metadata_path.name
            inside.write_bytes(metadata.encode(record))
        if self._record_is_inside:
            self._replace_data(written)
        elif record is None:
            self._replace_data(written)
            self.metadata_path.unlink(missing_ok=True)  # it is of other data, and recognised as such until it is gone
        elif os.path.exists(self.path):
            self._write(metadata.encode({**record, SUPERSEDED: self._own_record()}), written.path.parent)
            self._replace_data(written)
            self._write(metadata.encode(record), written.path.parent)
        else:  # a crash between leaves a record without data, which the next run overwrites
            self._write(metadata.encode(record), written.path.parent)
            self._replace_data(written)

    def _replace_data(self, written: Written) -> None:
        if self.shape is Shape.FILE:
            files.replace(written.path, self.path)
        else:
            files.swap_folder(written.path, self.path)

    def _write(self, data: bytes, staging: Path) -> None:
        if self.metadata_path.parent != self.path.parent:
            self.metadata_path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(self.metadata_path, data, staging=staging)

    @contextlib.contextmanager
    def reading(self, *, force: bool = False) -> Iterator[Present]:  # noqa: ARG002  (there is no copy to renew)
        """Yield the path itself; the data are not replaced while the block runs."""
        if not self.exists():
            raise TargetNotFoundError.at(self.path)
        with processes.lock(str(self.path)):
            yield Present(self.path, functools.partial(self.fingerprint, heals=False), self.stamp())

    def read_record(self) -> Metadata | None:
        """Give the record of the present data; reads them only if their sizes or times are not as recorded."""
        if self.exists():
            return self._own_record()
        return seen_without_data(self.stored_record()).record

    def look(self) -> Seen:
        """Give what is there; reads the data only if their sizes or times are not as recorded."""
        found = self._present()  # first, as what is put right here may change the record
        stored = self.stored_record()
        if found is None:
            return seen_without_data(stored)
        own = self._own_record(stored, found)
        recorded = output_in(own)
        if "fingerprint" in recorded:  # it is of the data, or it would not be their own
            return Seen(str(recorded["fingerprint"]), own)
        return Seen(self.fingerprint(), own, None if own is not None else stored)

    def glimpse(self) -> Glimpse:
        """Give what a picture shows; of data whose sizes or times are not as recorded only small ones are read."""
        stored = self.stored_record()
        found = self._present(heals=False)
        if found is None:
            return Glimpse(exists=False, record=seen_without_data(stored).record)
        if self.shape is Shape.FILE:
            sizes, has_more = [("", found.st_size)], False
        else:
            sizes, has_more = files.sizes_in(self.path, MAX_COUNTED)
            sizes = [(name, size_bytes) for name, size_bytes in sizes if name != self.inside_name]
        size_bytes = sum(size for _, size in sizes)
        own = None if has_more or stored is None else self._recorded(stored, size_bytes)
        fingerprint = output_in(own).get("fingerprint")
        told = Glimpse(exists=True, size_bytes=size_bytes, fingerprint=fingerprint, record=own, copy=self.path)
        if self.shape is Shape.FILE:
            return told
        return replace(told, contents=tuple(sizes[:MAX_NAMED]), files=len(sizes), has_more=has_more)

    def _recorded(self, stored: Metadata, size_bytes: int) -> Metadata | None:
        """Give the record of the present data among what is stored, as far as that is told without reading much."""
        if size_bytes <= MAX_DIGESTED_BYTES:
            return self._own_record(stored)
        stamp = self._stamp()
        return next((found for found in kept_in(stored) if output_in(found).get("stamp") == stamp), None)

    def stored_record(self) -> Metadata | None:
        """Give the record as it lies there, be it of other data."""
        try:
            with open(self.metadata_path, "rb", buffering=0) as stream:
                return metadata.decode(stream.read())
        except OSError:
            return None

    def _own_record(self, stored: Metadata | None = None, found: os.stat_result | None = None) -> Metadata | None:
        """Give the record of the present data among what is stored, and what that replaced."""
        stored = self.stored_record() if stored is None else stored
        if stored is None or (SUPERSEDED in stored and "output" not in stored):  # damaged, or another program's
            return None
        return next((told for told in kept_in(stored) if self._is_of(told, found)), None)

    def _is_of(self, record: Metadata, found: os.stat_result | None = None) -> bool:
        """Say whether a record is that of the present data; one that was written by hand names no data."""
        output = output_in(record)
        if "fingerprint" not in output:
            return True
        stamp = self._stamp() if found is None or self.shape is Shape.FOLDER else files.stamp_of(found)
        return output.get("stamp") == stamp or bool(output["fingerprint"] == self._digest())

    def _settle_record(self) -> None:
        """Let the record beside the data be the data's own and nothing else."""
        if self._record_is_inside or not self.path.exists():
            return
        if f'"{SUPERSEDED}"'.encode() not in self.metadata_path.read_bytes():
            return
        record = self._own_record()
        if record is None:
            self.metadata_path.unlink(missing_ok=True)
        else:
            with workplace.staging_folder(self._place) as staging:
                self._write(metadata.encode(record), staging)

    def write_record(self, record: Metadata) -> None:
        """Replace the record in one step."""
        if not self.exists():
            raise TargetNotFoundError.at(self.path)
        with self.staging() as staging, processes.lock(str(self.path)):
            self._write(metadata.encode(record), staging)

    def fingerprint(self, *, heals: bool = True) -> str:
        """Give the recorded digest if sizes and times are as recorded, else read the data."""
        found = self._present(heals=heals)
        if found is None:
            raise TargetNotFoundError.at(self.path)
        name = os.fspath(self.path)
        stamp = files.stamp_of(found) if self.shape is Shape.FILE else self._stamp()
        seen = stamp, found.st_ino  # what is replaced within one tick of the clock is another file
        known = _recorded.get(name)
        if known is not None and known[0] == seen:
            return known[1]
        output = output_in(self._own_record())
        if "fingerprint" not in output or output.get("stamp") != stamp:
            return self._digest()
        if len(_recorded) >= _MAX_RECORDED:
            _recorded.clear()
        fingerprint = str(output["fingerprint"])
        _recorded[name] = seen, fingerprint  # another thread may clear it at once
        return fingerprint

    def _digest(self) -> str:
        if self.shape is Shape.FILE:
            return files.digest(self.path)
        return files.digest_of_entries([entry for entry in files.listing(self.path) if entry.name != self.inside_name])

    def _stamp(self) -> str:
        return files.changed_stamp(self.path, leave_out=self.inside_name)

    def stamp(self) -> str | None:
        """Give sizes and times of data without a record: one `stat`, of a folder one per file."""
        try:
            return None if os.path.exists(self.metadata_path) else self._stamp()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def bytes_to_fetch(self) -> int | None:
        """Give 0 if there are data."""
        return None if self._present() is None else 0

    def mark(self, run: str) -> None:
        """Put the marker into the staging folder."""
        workplace.make_in(self._place, self._place)
        self._marker.write_text(run, encoding="utf-8")

    def unmark(self) -> None:
        """Take the marker away."""
        self._marker.unlink(missing_ok=True)
        workplace.close(self._place)

    def lease(self) -> LockFile:
        """Give the lock beside the data."""
        return LockFile(self.path)

    def is_unfinished_by(self, run: str) -> bool:
        """Say whether the marker stands and is this run's."""
        try:
            return self._marker.read_text(encoding="utf-8") == run
        except OSError:
            return False

    def is_marked(self) -> bool:
        """Say whether the marker stands. One `stat`."""
        return self._marker.exists()

    def discard(self, *, keep_record: bool = False) -> None:
        """Remove data, then record: the reverse would leave data without origin."""
        with files.translated("remove", self.path), processes.lock(str(self.path)):
            if os.path.lexists(self.path) and not (keep_record and self._holds_only_its_record()):
                with workplace.staging_folder(self._place) as staging:
                    self._take_away(staging, keep_record=keep_record)
            if not (keep_record or self._record_is_inside):
                self.metadata_path.unlink(missing_ok=True)
            self.unmark()

    def _take_away(self, staging: Path, *, keep_record: bool) -> None:
        """Move the data away in one step, then remove them: a folder that is half removed must not count."""
        record = (self._own_record() or {}) if keep_record else None  # what has none leaves the time alone
        removed = staging / self.path.name
        if record is not None and self._record_is_inside:
            removed.mkdir()
            (removed / self.metadata_path.name).write_bytes(metadata.removed(record))
            files.swap_folder(removed, self.path)
        else:
            if record is not None:
                self._write(metadata.removed(record), staging)
            os.rename(self.path, removed)
        files.discard(removed)


class LocalFileTarget(Target):
    """One file on the local disk.

    `metadata_path` defaults to `<path>.metadata.json`. A relative path is relative to the working directory at
    the time of use; `~` is the home directory.

    Raises:
        InvalidNameError: the path is empty or names no file.
    """

    shape = Shape.FILE
    other_shape = "LocalFolderTarget"

    def __init__(self, path: str | os.PathLike[str], metadata_path: str | os.PathLike[str] | None = None) -> None:
        self._path = _checked(path)
        self._metadata_path = None if metadata_path is None else _checked(metadata_path)
        if self._metadata_path == self._path:
            way_out = "Leave metadata_path out, or give another."
            raise InvalidNameError(os.fspath(path), "is the path of the data and of their record", way_out)

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def metadata_path(self) -> Path:
        """Where the record is."""
        if self._metadata_path is None:
            self._metadata_path = self._path.with_name(files.name_beside(self._path.name, RECORD_SUFFIX))
        return self._metadata_path

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name

    @property
    def store(self) -> LocalStore:
        """The place."""
        store: LocalStore | None = self.__dict__.get("_store")
        if store is None:
            store = LocalStore(self.path.absolute(), self.metadata_path.absolute(), self.shape, self.other_shape)
            if self.path.is_absolute() and self.metadata_path.is_absolute():  # else it goes with the working directory
                self._store = store
        return store


class LocalFolderTarget(LocalFileTarget):
    """A folder on the local disk, replaced whole: a reader sees all old files or all new ones.

    `metadata_path` defaults to `<path>.metadata.json`; with `metadata_inside_folder` the record is
    `<path>/.metadata.json`. The record names up to `metadata_contents_limit` files.

    Raises:
        InvalidNameError: the path is empty or names no folder, or `metadata_path` lies deep inside it, or is given
            together with `metadata_inside_folder`.
    """

    shape = Shape.FOLDER
    other_shape = "LocalFileTarget"

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata_path: str | os.PathLike[str] | None = None,
        *,
        metadata_inside_folder: bool = False,
        metadata_contents_limit: int = 10,
    ) -> None:
        if metadata_inside_folder and metadata_path is not None:
            problem, way_out = "is given together with metadata_inside_folder", "Give one of the two."
            raise InvalidNameError(os.fspath(metadata_path), problem, way_out)
        super().__init__(path, metadata_path)
        if self._metadata_path is not None and self._path in self._metadata_path.parent.parents:
            problem = f"is deep inside {str(self._path)!r}, which is replaced whole"
            raise InvalidNameError(str(metadata_path), problem, "Let the record lie beside it, or directly in it.")
        if metadata_inside_folder:
            self._metadata_path = self._path / RECORD_SUFFIX
        self.metadata_contents_limit = metadata_contents_limit

    @property
    def record_inside(self) -> str | None:  # type: ignore[override]
        """The name of the record, where it lies in the folder itself."""
        return self.store.inside_name


def _checked(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    way_out = "Give the path of a file or folder, such as 'data/features.csv'."
    if "\0" in text:
        raise InvalidNameError(text, "holds a NUL character", way_out)
    if is_address(text):
        raise InvalidNameError(text, "is an address in S3, not a local path", "Use S3ObjectTarget or S3PrefixTarget.")
    try:
        checked = Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError:
        raise InvalidNameError(text, "is in a home directory that is not known", way_out) from None
    if not text.strip() or checked.name in ("", ".", ".."):
        raise InvalidNameError(text, "names no file or folder", way_out)
    if checked.name == workplace.STAGING_NAME:
        raise InvalidNameError(text, "is the name of the folder in which outputs are staged", "Choose another name.")
    return checked
