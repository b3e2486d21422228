"""What several processes on one machine agree on: who owns a folder, whether the owner lives, and whose turn it is.

The invariant: what a killed process leaves is told from what is in use by its name alone, and its locks end with it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib
import os
import secrets
import socket
import sys
from typing import TYPE_CHECKING

from superluigi import config
from superluigi.errors import StorageError
from superluigi.storage.files import translated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# Who owns a folder


def owner_token() -> str:
    """Give a fresh folder name that tells which process owns the folder."""
    pid = os.getpid()
    return f"{pid}-{_own_start_time(pid)}-{secrets.token_hex(4)}@{socket.gethostname()}"


def is_abandoned(token: str) -> bool:
    """Say whether the process that made this name is gone for certain.

    A name from another host, or one that is no token at all, is never abandoned. A process id that was given
    to a newer process is recognised by its start time where the system tells it (Linux).
    """
    owner, at, host = token.partition("@")
    parts = owner.split("-")
    if not at or host != socket.gethostname() or len(parts) != 3 or not parts[0].isdecimal():
        return False
    pid = int(parts[0])
    if pid == os.getpid() and parts[1] == _own_start_time(pid):
        return False
    return not _is_running(pid) or parts[1] != _start_time(pid)


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":  # signal 0 would end the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:  # a number that no process has
        return False
    except OSError:
        return True
    return True


@functools.lru_cache(maxsize=1)
def _own_start_time(pid: int) -> str:
    return _start_time(pid)


def _start_time(pid: int) -> str:
    """Give when the process was started, in the system's own ticks; `0` where the system does not tell.

    One that was killed, and that its parent did not take notice of, was never started.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            facts = status.read().rpartition(b")")[2].split()
            return "never" if facts[0] == b"Z" else facts[19].decode()
    except (OSError, IndexError):
        return "0"


# One at a time


@contextlib.contextmanager
def lock(address: str, *, family: str = "targets", wait: bool = True) -> Iterator[None]:
    """Hold the lock of one address, between threads and between processes on this machine.

    The operating system frees the lock of a process that is killed. The addresses of a family share 1,024 lock
    files, so that their number stays bounded; therefore nobody waits for a second lock of one family while holding
    one. Families are taken in the order recovery, publications, targets, history.

    Raises:
        BlockingIOError: `wait` is false, and somebody holds the lock.
        StorageError: the file of the lock cannot be opened, or its file system knows no locks.
    """
    stripe = int(hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) % 1024
    path = config.data_dir() / "locks" / family / f"{stripe:04}.lock"
    with file_lock(path, wait=wait):
        yield


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, which is made with its folder if need be; waits in the kernel, without polling.

    Raises:
        BlockingIOError, StorageError: as `lock` does.
    """
    import portalocker

    handle = _opened(path)
    try:
        try:
            portalocker.lock(handle, portalocker.LOCK_EX if wait else portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.AlreadyLocked as error:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), os.fspath(path)) from error
        except portalocker.LockException as error:
            way_out = "Let local_data_dir be on a file system that knows locks."
            raise StorageError("lock", str(path), str(error), way_out) from error
        try:
            yield
        finally:
            portalocker.unlock(handle)  # also for a process that was forked meanwhile, and has the file open, too
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        with translated("lock", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        with translated("lock", path):
            raise
    raise AssertionError(path)


def prepare_to_fork() -> None:
    """Load now what every forked process would load for itself."""
    importlib.import_module("portalocker")
