"""What all targets have in common: private paths to read, fresh paths to write, and the record beside the data.

A target is a place (a `Store`) times a shape (one file, or a folder of files). The invariant: bytes leave or
reach a target only through the two context managers here, so a reader never holds the target's own bytes, and a
writer never writes on them.
"""

from __future__ import annotations

import abc
import contextlib
from typing import IO, TYPE_CHECKING, Any

import luigi

from superluigi import config
from superluigi.errors import (
    ConfigError,
    DiskFullError,
    TargetNotFoundError,
    TargetShapeError,
)
from superluigi.storage import cache, files, leases, workplace
from superluigi.targets.metadata import Metadata, plain
from superluigi.targets.publishing import StagedOutput
from superluigi.targets.store import ReadCopy, Shape, Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path


class Target(luigi.Target):
    """A file or folder somewhere, with a lineage record.

    Making one does no work: nothing is opened or asked. Pickles. Works alone as well as in a task.
    """

    shape: Shape
    other_shape: str
    metadata_contents_limit = 10
    record_inside: str | None = None  # the name of the record, where it lies among the files that are read

    @property
    @abc.abstractmethod
    def path(self) -> Path | str:
        """Where the data are: a `Path` for local targets, an `s3://` address for remote ones."""

    @property
    @abc.abstractmethod
    def metadata_path(self) -> Path | str:
        """Where the record is."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The last part of the path; files that are handed to a task bear it, because writers look at suffixes."""

    @property
    @abc.abstractmethod
    def store(self) -> Store:
        """The place."""

    def __str__(self) -> str:
        """Give the path."""
        return str(self.path)

    def __repr__(self) -> str:
        """Give the class and the path."""
        return f"{type(self).__name__}({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """Give what a notebook shows: whether the data are there, the record, the first rows. Fetches no data.

        In S3 it costs a HEAD or a listing, and a GET of the record. Takes a few seconds at most, and never fails.
        """
        from superluigi.targets.cards import card_of

        return card_of(self)

    def describe(self) -> Metadata:
        """Give type and path as a lineage record names them."""
        return {"type": type(self).__name__, "path": str(self.path)}

    def exists(self) -> bool:
        """Say whether the data are there, whole; a prefix whose upload broke off does not exist.

        Raises:
            TargetShapeError: a folder stands where a file is expected, or the reverse.
            StorageError: the store cannot be asked.
        """
        return self.store.exists()

    @contextlib.contextmanager
    def tmp_read_path(self) -> Iterator[Path]:
        """Yield a private copy, which may be changed or deleted and is gone afterwards.

        Raises:
            TargetNotFoundError: there is nothing to read.
        """
        with workplace.private_folder() as folder:
            yield self.read_into(folder, with_fingerprint=False).path

    def read_into(self, folder: Path, *, with_fingerprint: bool = True) -> ReadCopy:
        """Copy the data into a folder, or link them with `input_mode = link`; the copy bears the target's name.

        The fingerprint is that of the source. If the disk is full, the local copies of other objects are given up.

        Raises:
            TargetNotFoundError: there is nothing to read.
            DiskFullError: there is no room for the copy.
        """
        private = folder / self.name
        take = files.link if config.is_linking() else files.copy
        with self.store.reading() as source:
            try:
                with files.translated("copy", private):
                    take(source.path, private)
            except DiskFullError:
                cache.give_up_all(cache.default_root())
                files.discard(private)
                with files.translated("copy", private):
                    take(source.path, private)
            if self.record_inside is not None:
                files.discard(private / self.record_inside)
            return ReadCopy(private, source.fingerprint() if with_fingerprint else None, source.stamp)

    @contextlib.contextmanager
    def tmp_write_path(self) -> Iterator[Path]:
        """Yield a fresh local path; on clean exit publish what was written there.

        A folder is there and empty, a file is not there. Nothing is published if the block raises or a generator
        is closed. A record of the former data is removed, as it is not the new data's.

        Raises:
            TargetShapeError: a file was promised and a folder was left, or the reverse.
            MissingOutputError: nothing was left.
        """
        with self.store.staging() as folder:
            staged = StagedOutput(self, folder)
            yield staged.path
            staged.check()
            leases.confirm()  # of the task that writes here, if it has one
            staged.publish(None)

    def open(self, mode: str = "r") -> OpenFile:
        """Open a one-file target as Luigi's targets do: `r` or `rb` reads a copy, `w` or `wb` publishes when closed.

        For a `with` block, or as it is. Nothing is published if the block raises, or if it is never closed.

        Raises:
            ConfigError: another mode.
            TargetShapeError: the target is a folder.
        """
        if self.shape is not Shape.FILE:
            message = f"{self} is a folder and cannot be opened. Use tmp_read_path() or tmp_write_path()."
            raise TargetShapeError(message)
        if mode not in ("r", "rb", "rt", "w", "wb", "wt"):
            message = f"{mode!r} is no mode of a target. Use 'r', 'rb', 'w' or 'wb'."
            raise ConfigError(message)
        return OpenFile(self._opened(mode))

    @contextlib.contextmanager
    def _opened(self, mode: str) -> Iterator[IO[Any]]:
        encoding = None if "b" in mode else "utf-8"
        path = self.tmp_read_path() if mode.startswith("r") else self.tmp_write_path()
        with path as private, open(private, mode, encoding=encoding) as stream:
            yield stream

    def read_metadata(self) -> Metadata:
        """Give the lineage record that belongs to the present data, or to data that were removed without it.

        Raises:
            TargetNotFoundError: there are no data, or they have no record of their own.
        """
        record = self.store.read_record()
        if record is None:
            message = (
                f"{self} has no lineage record at {self.metadata_path} that belongs to its data. "
                "A task with metadata writes one; write_metadata() adds one by hand."
            )
            raise TargetNotFoundError(message)
        return record

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the record of the present data by `metadata`, in one step.

        Raises:
            MetadataError: a value that JSON cannot hold.
            TargetNotFoundError: there are no data.
        """
        record = plain(metadata)
        if not self.exists():
            raise TargetNotFoundError.at(self.path)
        self.store.write_record(record)

    def fingerprint(self) -> str:
        """Give what changes when the data change, and only then: a digest, or S3's ETag for foreign objects.

        Local data whose size and modification time are as recorded are not read again. One HEAD per object, one
        listing per prefix.

        Raises:
            TargetNotFoundError: there are no data.
        """
        return self.store.fingerprint()

    def remove(self, *, keep_metadata: bool = False) -> None:
        """Remove the data and the record; what is not there is no error.

        `keep_metadata` lets the record stay: `read_metadata` then still gives it, with the `removed_time`.
        """
        self.store.discard(keep_record=keep_metadata)


class OpenFile:
    """The stream that `Target.open` gives: a context manager, and by itself whatever the file beneath it is."""

    def __init__(self, opened: AbstractContextManager[IO[Any]]) -> None:
        self._stack = contextlib.ExitStack()
        stream: Any = self._stack.enter_context(opened)
        self._stream = stream
        stream.held_open_by = self  # `target.open().read()` keeps nothing but the method, and so the file

    def __enter__(self) -> IO[Any]:
        return self._stream  # type: ignore[no-any-return]

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Close the file, and publish what was written; a second time does nothing."""
        self._stack.close()
