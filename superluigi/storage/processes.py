"""What several processes on one machine agree on: who owns a folder, whether the owner lives, and whose turn it is.

The invariant: what a killed process leaves is told from what is in use by its name alone, and its locks end with it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import socket
import sys
from typing import TYPE_CHECKING

from superluigi import config
from superluigi.storage.files import translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from filelock import FileLock


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
    """Give when the process was started, in the system's own ticks, or `0` where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            return status.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return "0"


# One at a time


@contextlib.contextmanager
def lock(address: str, *, family: str = "targets", wait: bool = True) -> Iterator[None]:
    """Hold the lock of one address, between threads and between processes on this machine.

    The operating system frees the lock of a process that is killed. The addresses of a family share 1,024 lock
    files, so that their number stays bounded; therefore nobody waits for a second lock of one family while holding
    one. Families are taken in the order recovery, publications, targets.

    Raises:
        filelock.Timeout: `wait` is false, and somebody holds the lock.
    """
    stripe = int(hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) % 1024
    path = config.data_dir() / "locks" / family / f"{stripe:04}.lock"
    held = file_lock(str(path))
    try:
        held.acquire(blocking=wait)
    except TimeoutError:
        raise
    except OSError:
        with translated("lock", path):
            raise
    try:
        yield
    finally:
        held.release()


@functools.lru_cache(maxsize=4096)
def file_lock(path: str) -> FileLock:
    """Give the lock of a file; it keeps apart who holds it in which thread, and makes the folder."""
    from filelock import FileLock

    return FileLock(path)


def prepare_to_fork() -> None:
    """Load and look up now what every forked process would for itself: the first lock of a process is a slow one."""
    file_lock("unused.lock")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=file_lock.cache_clear)  # a lock belongs to the process that made it
