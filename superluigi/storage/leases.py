"""Leases: one process at a time makes an output, without a server. What they are, and those of local outputs.

A lease says who may make an output, not who may read it, and nobody waits here: who is refused asks again when it
likes. Leases in S3 are in `s3_leases`. The invariant: at most one holder of an address gets past `confirm` at any
time, and a holder that is killed keeps nobody out for good.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from superluigi.errors import LeaseError, StorageError
from superluigi.storage import workplace
from superluigi.storage.files import name_beside, translated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TAKE, _CONFIRM = "take the lease", "confirm the lease"
_SUFFIX = ".lock"
_TRIES = 1000  # each fails only if another process has taken or freed the lock, or cleared the folder, just then
_LOOKS = 5
_LOOK_S = 0.001


class Held(Protocol):
    """A lease that this process holds, from any of its threads. A process that was forked from it does not."""

    def confirm(self) -> None:
        """See that it is still held; called right before what was made under it is published.

        Raises:
            LeaseError: it was lost, or belongs to the process that this one was forked from.
        """

    def release(self) -> None:
        """Let others take it; twice is once. A lease that was lost, or a store that is gone, is no error.

        A process that was forked from the holder leaves the lease as it is.
        """


class Lease(Protocol):
    """The right to make one output. Making one does no work, and it pickles."""

    @property
    def address(self) -> str:
        """Where the lease is: equal for all who make the output."""

    def take(self) -> Held | None:
        """Give the lease if nobody holds it, None if somebody does. Never waits for a holder.

        Safe between threads, processes and, in S3, machines: of all who take at once one gets it.

        Raises:
            StorageError: the place of the output cannot be asked, or knows no leases.
        """

    def is_taken(self) -> bool:
        """Say whether somebody holds it, without taking it; may be out of date at once."""


# What the current context holds

_held: ContextVar[tuple[int, Held] | None] = ContextVar("superluigi_lease", default=None)


@contextlib.contextmanager
def holding(held: Held) -> Iterator[None]:
    """Let `confirm` in this context mean this lease, until the block ends. Neither takes nor releases it."""
    token = _held.set((os.getpid(), held))
    try:
        yield
    finally:
        _held.reset(token)


def confirm() -> None:
    """Confirm the lease that the current context holds; nothing if it holds none, or was forked from one that does.

    Raises:
        LeaseError: it was lost.
    """
    current = _held.get()
    if current is not None and current[0] == os.getpid():
        current[1].confirm()


def of_another_process(address: str) -> LeaseError:
    """Give the error of a lease that was inherited by a fork."""
    return LeaseError(
        _CONFIRM,
        address,
        "this process was forked from the one that holds the lease, but a lease is held by one process alone",
        "Take the lease in the process that publishes.",
    )


# Local outputs

_open_handles: set[int] = set()
_handles_lock = threading.RLock()  # no fork between opening a handle and noting it: the child closes what is noted


@dataclass(frozen=True)
class LockFile:
    """The lease of one local file or folder: a lock of the operating system, on a file in `.superluigi` beside it.

    Processes agree on it whatever their data directories are. The system frees it the moment its holder ends, however
    that ends; the file of a holder that was killed stays, unlocked, until the next one has released the lease.
    Processes on several machines agree only if their shared file system shares its locks (NFS from version 4 does).
    """

    output: Path

    @property
    def address(self) -> str:
        """The path of the lock file."""
        return str(self._path)

    @property
    def _path(self) -> Path:
        return self.output.parent / workplace.STAGING_NAME / name_beside(self.output.name, _SUFFIX)

    def take(self) -> Held | None:
        """Give the lease, None if somebody holds it. A few system calls; makes the folder of the output.

        Raises:
            AccessDeniedError: no file may be made beside the output.
            StorageError: the file system knows no locks.
        """
        path = self._path
        looks_left = _LOOKS
        with translated(_TAKE, path):
            for _ in range(_TRIES):
                with _handles_lock:
                    handle = _opened(path)
                    if handle is None:
                        continue
                    is_locked = _lock(handle, path, is_shared=False)
                    if is_locked and _is_at(handle, path):
                        return _HeldLock(path, handle)
                    _close(handle)
                if is_locked:  # its holder had removed the file before freeing it: this lock keeps nobody out
                    continue
                looks_left -= 1
                if not looks_left:
                    return None
                time.sleep(_LOOK_S)  # it may be an `is_taken` in another process, which is over at once
        way_out = "See what else works in that folder, and run again."
        raise StorageError(_TAKE, str(path), f"it was removed {_TRIES} times while it was made", way_out)

    def is_taken(self) -> bool:
        """Say whether a living process holds it. A few system calls; nothing is made."""
        path = self._path
        with translated("look at the lease", path), _handles_lock:
            try:
                handle = os.open(path, os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                return False
            _open_handles.add(handle)
            try:
                return not _lock(handle, path, is_shared=True)
            finally:
                _close(handle)


class _HeldLock:
    """A locked file."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle
        self._pid = os.getpid()
        self._is_released = False

    def confirm(self) -> None:
        """See that the file is where others find it; one `stat`."""
        if self._pid != os.getpid():
            raise of_another_process(str(self._path))
        with _handles_lock:
            if not self._is_released and _is_at(self._handle, self._path):
                return
        problem = (
            "the lock was released, or its file removed or replaced, so another run may hold the lease, but a task "
            "holds its lease until its outputs are published"
        )
        way_out = "Nothing was published: run again, and leave the folder .superluigi alone while runs are at work."
        raise LeaseError(_CONFIRM, str(self._path), problem, way_out)

    def release(self) -> None:
        """Remove the file, then free the lock: in the reverse order it could be another's by then."""
        with _handles_lock:
            if self._is_released or self._pid != os.getpid():
                return
            self._is_released = True
            is_ours = _is_at(self._handle, self._path)
            if is_ours and sys.platform != "win32":
                _remove(self._path)
            _close(self._handle)
            if is_ours and sys.platform == "win32":  # an open file cannot be removed there
                _remove(self._path)
        workplace.close(self._path.parent)


def _opened(path: Path) -> int | None:
    """Open the file, made if need be; None if the folder was removed just then."""
    workplace.make_in(path.parent, path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    except PermissionError:
        if not path.exists():
            raise
        handle = os.open(path, os.O_RDONLY)  # another user's; it can be locked all the same
    _open_handles.add(handle)
    return handle


def _lock(handle: int, path: Path, *, is_shared: bool) -> bool:
    """Lock an open file if nobody has; say whether that was so."""
    import portalocker

    kind = portalocker.LOCK_SH if is_shared else portalocker.LOCK_EX
    try:
        portalocker.lock(handle, kind | portalocker.LOCK_NB)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        _close(handle)
        problem = f"the file system gives no lock ({error}), but one run at a time is to make the output"
        way_out = "Let the output be on a file system that knows locks, or in S3, or leave out single_flight."
        raise StorageError(_TAKE, str(path), problem, way_out) from error
    return True


def _close(handle: int) -> None:
    """Free and close; freed also for a process that was forked meanwhile, and has the file open, too."""
    import portalocker

    if handle not in _open_handles:
        return
    _open_handles.remove(handle)
    with contextlib.suppress(portalocker.LockException, OSError):
        portalocker.unlock(handle)
    os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _close_after_fork() -> None:
    """Close what the parent has locked, which stays locked; or the lock of a parent that is killed would live on."""
    for handle in _open_handles:
        with contextlib.suppress(OSError):
            os.close(handle)
    _open_handles.clear()
    _handles_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_handles_lock.acquire, after_in_parent=_handles_lock.release, after_in_child=_close_after_fork
    )
