"""The folders in which a process works: private ones in the data directory, and staging beside what is published.

Making and removing a folder costs more than writing a small file, so a run keeps the folders that were left empty and
gives them again. The invariant: whatever a killed process left is found by its name: its home in the data directory,
which says in which other places it staged and what it was about to do, and its folders there.

    <data_dir>/tmp/<owner token>/<n>/           private folders: inputs, and what goes to S3
                                 journals/<n>   what is being published in several steps
                                 places         the other folders in which there is staging, one a line
    <folder of an output>/.superluigi/<owner token>/   staging, from which publishing is one rename
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import OrderedDict
from contextvars import ContextVar
from typing import TYPE_CHECKING

from superluigi import config
from superluigi.storage import files, processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAGING_NAME = ".superluigi"

_JOURNALS = "journals"
_PLACES = "places"
_MAKE_TRIES = 1000
_MAX_KEPT = 200  # places in which folders are kept


class _Workplace:
    """The folders of one process, until `close`. Safe between threads."""

    def __init__(self, *, keeps: bool, forked_from: _Workplace | None = None) -> None:
        self._keeps = keeps
        self._forked_from = forked_from
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._home: Path | None = None
        self.clear: set[str] = set()  # the places that were found without anything abandoned
        self._free: OrderedDict[str, list[Path]] = OrderedDict()  # by place, the least recently used first

    @property
    def is_of_this_process(self) -> bool:
        return self._pid == os.getpid()

    @property
    def has_home(self) -> bool:
        return self._home is not None

    def home(self) -> Path:
        with self._lock:
            if self._home is None:
                home = config.data_dir() / "tmp" / processes.owner_token()
                with files.translated("prepare", home):
                    home.parent.mkdir(parents=True, exist_ok=True)
                    home.mkdir(mode=0o700)
                self._home = home
            return self._home

    @contextlib.contextmanager
    def folder(self, place: Path | None) -> Iterator[Path]:
        """Yield an empty folder in a place, or in the home."""
        folder = self._taken(place)
        try:
            yield folder
        finally:
            self._give_back(place, folder)

    def _taken(self, place: Path | None) -> Path:
        where = place or self.home()
        name = os.fspath(where)
        with self._lock:
            kept = self._free.get(name)
            while kept:
                if (folder := kept.pop()).is_dir():
                    return folder
        if place is None:
            folder = where / str(next(self._numbers))
            with files.translated("prepare", folder):
                folder.mkdir(mode=0o700)
            return folder
        if self._keeps and kept is None:
            self._note(place)
        folder = place / processes.owner_token()
        make_in(place, folder)
        return folder

    def _note(self, place: Path) -> None:
        """Write down that there is staging in a place, for whoever clears up after a kill.

        A forked process writes it down for the one that it was forked from, which clears up when it ends.
        """
        home = (self._forked_from or self).home()
        line = f"{os.fsencode(place).hex()}\n".encode()
        with files.translated("write down", home / _PLACES):  # else it is taken for what befell the output
            handle = os.open(home / _PLACES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)

    def _give_back(self, place: Path | None, folder: Path) -> None:
        is_kept = self._keeps and self.is_of_this_process and _is_empty(folder)
        if not is_kept:
            files.discard(folder)
        name = os.fspath(place or self.home())
        with self._lock:
            self._free.setdefault(name, []).extend([folder] if is_kept else [])
            self._free.move_to_end(name)
            surplus = [self._free.popitem(last=False)] if len(self._free) > _MAX_KEPT else []
        for emptied, folders in surplus:
            _remove(emptied, folders)

    @contextlib.contextmanager
    def journal(self, data: bytes) -> Iterator[None]:
        """Hold a journal while the block runs; it is there in one step."""
        folder = self.home() / _JOURNALS
        journal = folder / str(next(self._numbers))
        with files.translated("write a journal", journal):
            folder.mkdir(mode=0o700, exist_ok=True)
            files.write_atomically(journal, data, mode=0o600)  # options may hold secrets
        try:
            yield
        finally:
            journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all that is kept."""
        for place, folders in self._free.items():
            _remove(place, folders)
        if self._home is not None:
            for noted in places_of(self._home):
                clear(noted)  # of a forked process that was killed
            files.discard(self._home)


_current: ContextVar[_Workplace | None] = ContextVar("superluigi_workplace", default=None)


@contextlib.contextmanager
def keeping_folders() -> Iterator[None]:
    """Keep folders that were left empty, for the next that asks in this process, until the block ends."""
    outer = _current.get()
    is_forked = outer is not None and not outer.is_of_this_process and outer.has_home
    workplace = _Workplace(keeps=True, forked_from=outer if is_forked else None)
    token = _current.set(workplace)
    try:
        yield
    finally:
        _current.reset(token)
        workplace.close()


def prepare_to_fork() -> None:
    """Make now the home that forked processes share for their notes."""
    current = _current.get()
    if current is not None and current.is_of_this_process:
        current.home()


@contextlib.contextmanager
def _in_use() -> Iterator[_Workplace]:
    current = _current.get()
    if current is not None and current.is_of_this_process:  # a forked process has folders of its own
        yield current
        return
    passing = _Workplace(keeps=False)
    try:
        yield passing
    finally:
        passing.close()


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Yield an empty folder of this process in the data directory, and clear it afterwards."""
    with _in_use() as workplace, workplace.folder(None) as folder:
        yield folder


def keep(file: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file of the data directory in one step; what a kill leaves of it goes with the home of the process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with private_folder() as private:
        files.write_atomically(file, data, staging=private, mode=mode)


@contextlib.contextmanager
def staging_folder(place: Path) -> Iterator[Path]:
    """Yield an empty folder of this process in a place that is made if need be, and clear it afterwards."""
    with _in_use() as workplace, workplace.folder(place) as folder:
        yield folder


@contextlib.contextmanager
def journal(data: bytes) -> Iterator[None]:
    """Let whoever clears up after a kill of this process find these bytes, while the block runs."""
    with _in_use() as workplace, workplace.journal(data):
        yield


def make_in(place: Path, folder: Path) -> None:
    """Make a place and a folder in it, although other processes remove the place whenever they find it empty."""
    for tries_left in reversed(range(_MAKE_TRIES)):
        try:
            place.mkdir(parents=True, exist_ok=True)
            if folder != place:
                folder.mkdir()
        except (FileNotFoundError, FileExistsError):
            if not tries_left or place.is_file():
                raise
        else:
            return


def close(place: Path) -> None:
    """Remove a place if nobody is at work there and no marker stands."""
    with contextlib.suppress(OSError):
        place.rmdir()


def _remove(place: str, folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
    if os.path.basename(place) == STAGING_NAME:
        with contextlib.suppress(OSError):
            os.rmdir(place)


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


# After a kill

_hands_off: ContextVar[bool] = ContextVar("superluigi_hands_off", default=False)


@contextlib.contextmanager
def hands_off() -> Iterator[None]:
    """Leave what killed processes left where it is, for who only looks."""
    token = _hands_off.set(True)
    try:
        yield
    finally:
        _hands_off.reset(token)


def is_hands_off() -> bool:
    """Say whether the caller only looks."""
    return _hands_off.get()


def abandoned_homes() -> list[Path]:
    """Give the homes that killed processes left in the data directory. Costs one listing."""
    return _abandoned_in(config.data_dir() / "tmp")


def journals_in(home: Path) -> list[Path]:
    """Give what a killed process wrote down of its publications, oldest first."""
    found = [path for path in (home / _JOURNALS).glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def places_of(home: Path) -> list[Path]:
    """Give where else a killed process had folders."""
    try:
        lines = (home / _PLACES).read_text(encoding="ascii").split("\n")[:-1]  # a torn last line was not yet used
        return [home.__class__(os.fsdecode(bytes.fromhex(line))) for line in dict.fromkeys(lines)]
    except (OSError, ValueError):
        return []


def needs_clearing(place: Path) -> bool:
    """Say whether a killed process left something in a place, be it the empty place.

    One listing; none once a run has looked there.
    """
    if is_hands_off():
        return False
    current = _current.get()
    name = os.fspath(place)
    if current is not None and name in current.clear:
        return False
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(place)
        if not names or any(map(processes.is_abandoned, names)):
            return True
    if current is not None:
        current.clear.add(name)
    return False


def clear(place: Path) -> None:
    """Bring back what killed processes were replacing, and remove what else they left in a place."""
    for folder in _abandoned_in(place):
        with contextlib.suppress(OSError):
            for replaced in folder.glob(f"*{files.REPLACED_SUFFIX}"):
                original = place.parent / replaced.name.removesuffix(files.REPLACED_SUFFIX)
                with processes.lock(str(original)):
                    if not original.exists():
                        os.rename(replaced, original)
            files.discard(folder)
    close(place)


def _abandoned_in(place: Path) -> list[Path]:
    try:
        return [place / name for name in os.listdir(place) if processes.is_abandoned(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
