"""What several processes on one machine agree on: who owns a folder, whether the owner lives, and whose turn it is.

The invariant: what a killed process leaves is told from what is in use by its name alone, and its locks end with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import sys
from typing import TYPE_CHECKING

from filelock import FileLock

from superluigi import config
from superluigi.storage.files import discard, translated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# Who owns a folder


def owner_token() -> str:
    """Give a fresh folder name that tells which process owns the folder."""
    pid = os.getpid()
    return f"{pid}-{_start_time(pid)}-{secrets.token_hex(4)}@{socket.gethostname()}"


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
    if pid == os.getpid() and parts[1] == _start_time(pid):
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


def _start_time(pid: int) -> str:
    """Give when the process was started, in the system's own ticks, or `0` where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            return status.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return "0"


# Folders that come and go


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Yield an empty folder of this process under the data directory, and remove it afterwards."""
    folder = config.data_dir() / "tmp" / owner_token()
    with translated("prepare", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        discard(folder)


def abandoned_folders() -> list[Path]:
    """Give the private folders that killed processes left in the data directory. Costs one listing."""
    root = config.data_dir() / "tmp"
    try:
        return [root / name for name in os.listdir(root) if is_abandoned(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


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
    folder = config.data_dir() / "locks" / family
    with translated("lock", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{stripe:04}.lock", blocking=wait):
        yield
