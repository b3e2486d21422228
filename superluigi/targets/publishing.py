"""From staged bytes to published ones: what was written is checked, described, put in place, and recovered.

The invariant: before a publication that takes several steps begins, a journal says how to end it, so that the next
run on this machine ends what a killed one began.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import stat
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from superluigi.errors import InvalidNameError, MissingOutputError, SuperLuigiError, TargetShapeError
from superluigi.storage import files, processes, workplace
from superluigi.targets.store import Shape, Written

if TYPE_CHECKING:
    from superluigi.targets.base import Target
    from superluigi.targets.metadata import Metadata
    from superluigi.targets.store import Store

_log = logging.getLogger("superluigi")

_is_recovering: ContextVar[bool] = ContextVar("superluigi_is_recovering", default=False)


class FreshFolder(type(Path())):  # type: ignore[misc]
    """The path of an empty folder that is to be filled.

    The folder is there, and `mkdir()` on it is allowed all the same while it is empty, so that code written for
    a path that is not there yet works too.
    """

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:  # noqa: FBT001, FBT002
        """Make the folder, or leave the empty one that is there."""
        is_fresh = self.is_dir() and not any(self.iterdir())
        super().mkdir(mode, parents, exist_ok or is_fresh)


def inspect(target: Target, path: Path) -> Written:
    """Give what was written to `path` for a target. Reads all of it once, for the digest.

    Raises:
        TargetShapeError: a folder instead of a file, or the reverse.
        MissingOutputError: nothing, or an empty folder.
    """
    promised = f"{type(target).__name__} holds {target.shape.value}"
    if target.shape is Shape.FILE:
        try:
            facts = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            message = f"Nothing was written for {target}, but {promised}. Write it to the path that was given."
            raise MissingOutputError(message) from None
        if path.is_dir():
            message = f"A folder was written for {target}, but {promised}. Write a file, or use {target.other_shape}."
            raise TargetShapeError(message)
        if stat.S_ISLNK(facts.st_mode):
            problem = f"was written for {target} as a link to {os.readlink(path)!r}"
            raise InvalidNameError(str(path), problem, "Write the file itself, as what a link points to may change.")
        return Written(path, facts.st_size, files.digest(path), files.stamp_of(facts), None)
    if path.exists() and not path.is_dir():
        message = f"A file was written for {target}, but {promised}. Write into it, or use {target.other_shape}."
        raise TargetShapeError(message)
    inside = target.record_inside
    entries = tuple(entry for entry in files.listing(path) if entry.name != inside) if path.exists() else ()
    if not entries:
        message = (
            f"No file was written for {target}, but {promised}, at least one. Write into the folder that was given."
        )
        raise MissingOutputError(message)
    size_bytes = sum(entry.size_bytes for entry in entries)
    stamp = files.changed_stamp(path, leave_out=inside)
    return Written(path, size_bytes, files.digest_of_entries(list(entries)), stamp, entries, inside)


class StagedOutput:
    """An output that is being written: hand out `path`, then `check`, then `publish`.

    The three steps are apart so that a task with several outputs has checked all before the first is published.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.store = target.store  # fixed now: a run may change the working directory
        self.path = folder / target.name
        self._written: Written | None = None
        if target.shape is Shape.FOLDER:
            self.path.mkdir()
            self.path = FreshFolder(self.path)

    def check(self) -> Written:
        """Give what was written. Reads all of it once, the first time, for the digest.

        Raises:
            TargetShapeError: a folder instead of a file, or the reverse.
            MissingOutputError: nothing, or an empty folder.
        """
        if self._written is None:
            if self.target.shape is Shape.FOLDER and self.path.is_dir():
                files.settle_links(Path(self.path))
            self._written = inspect(self.target, Path(self.path))
        return self._written

    def facts(self) -> Metadata:
        """Give the `output` part of the lineage record. Checks first, if that was not done."""
        return _facts(self.target, self.check())

    def publish(self, record: Metadata | None) -> None:
        """Put data and record in place. Checks first, if that was not done."""
        self.store.publish(self.check(), record)


def facts_of(target: Target) -> Metadata:
    """Give the `output` part of the lineage record for data that are published already. Reads them once."""
    with target.store.reading() as present:
        facts = _facts(target, inspect(target, present.path))
        return {**facts, "fingerprint": present.fingerprint()}


def _facts(target: Target, written: Written) -> Metadata:
    facts = {**target.describe(), **written.facts(target.metadata_contents_limit)}
    if isinstance(target.path, Path):
        facts["stamp"] = written.stamp  # lets a later look trust the digest without reading the data again
    return facts


@dataclass(frozen=True)
class Publication:
    """The steps that publish the outputs of one run of one task, once all are checked.

    Written to a journal before the first step, it lets `recover` end what was begun.
    """

    run: str
    steps: tuple[tuple[Store, Written, Metadata], ...]
    guard: Store | None = None

    def _address(self) -> str:
        return (self.guard or self.steps[0][0]).address

    def carry_out(self) -> None:
        """Take the steps, with a journal if there are several; the outputs count as complete only after the last."""
        if self.guard is None and not any(store.changes_in_steps for store, _, _ in self.steps):
            self._take_steps()
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(workplace.journal(pickle.dumps(self)))
            except SuperLuigiError:
                raise
            except Exception as error:  # noqa: BLE001  (client options may hold whatever the user likes)
                _log.debug("No journal is kept, so a killed publication is not ended by the next run: %s", error)
            self._take_steps()

    def _take_steps(self) -> None:
        """Publish what was staged. With a guard, one process at a time does so."""
        if self.guard is None:
            for store, written, record in self.steps:
                store.publish(written, record)
            return
        with processes.lock(self._address(), family="publications"):
            self.guard.mark(self.run)
            for store, written, record in self.steps:
                store.publish(written, record)
            self.guard.unmark()

    def recover(self) -> None:
        """End what this run began before it was killed, and clear what it left.

        Outputs that another run has published since are left alone: they do not bear this run's marks.
        """
        with processes.lock(self._address(), family="publications"):
            is_begun = self.guard is not None and self.guard.is_unfinished_by(self.run)
            for store, written, record in self.steps:
                if written.is_untouched() and (is_begun or store.is_unfinished_by(self.run)):
                    store.publish(written, record)
            if is_begun and self.guard is not None and all(self._is_taken(store) for store, _, _ in self.steps):
                self.guard.unmark()
        for store, _, _ in self.steps:
            store.heal()

    def _is_taken(self, store: Store) -> bool:
        record = store.read_record()
        return record is not None and record.get("run_id") == self.run


def recover_abandoned() -> None:
    """End and clear what killed processes of this machine left. Costs one listing where they left nothing."""
    if _is_recovering.get():  # a store that is asked in the course of it finds what was left, too
        return
    abandoned = workplace.abandoned_homes()
    if not abandoned:
        return
    token = _is_recovering.set(True)
    try:
        with processes.lock("recovery", family="recovery"):
            for journal in itertools.chain.from_iterable(map(workplace.journals_in, abandoned)):
                _recover(journal)
            for home in abandoned:
                for place in workplace.places_of(home):
                    workplace.clear(place)
                files.discard(home)
    finally:
        _is_recovering.reset(token)


def _recover(journal: Path) -> None:
    try:
        publication = pickle.loads(journal.read_bytes())  # noqa: S301  (written by us, in the user's own data directory)
        journal.unlink()  # what cannot be ended is not tried again and again: the task is not complete and will run
        publication.recover()
    except Exception as error:  # noqa: BLE001  (whatever it is, it must not stop the run that is about to begin)
        _log.warning("What a killed run began to publish could not be ended (%s). Its task will run again.", error)
