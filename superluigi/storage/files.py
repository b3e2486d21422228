"""Local files: private copies, digests, links, names, and replacement in one step.

Nothing here knows of targets or records. The invariant: a final path changes by one rename, and what
is written before that lies beside it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import unicodedata
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from superluigi import config
from superluigi.errors import AccessDeniedError, DiskFullError, InvalidNameError, StorageError, SuperLuigiError
from superluigi.storage import full_disks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REPLACED_SUFFIX = ".replaced"

_BLOCK_BYTES = 1 << 20
_MAX_NAME_BYTES = 255
# Patterns are compiled by `re` when they are first used: compiling is a good part of what an import costs.
_NOT_ON_WINDOWS = r'[\x00-\x1f<>:"\\|?*]|[. ]$|(?i:^(con|prn|aux|nul|com\d|lpt\d)(\.|$))'
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a folder: its name relative to the folder, with `/`, its size and its digest."""

    name: str
    size_bytes: int
    digest: str


def discard(path: Path) -> None:
    """Remove a file or a folder, whatever its permissions; what is not there is no error."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_folder:
        path.unlink(missing_ok=True)
        return

    def grant_and_retry(function: object, name: str, error: object) -> None:
        cause = error[1] if isinstance(error, tuple) else error
        if isinstance(cause, FileNotFoundError):
            return
        if not isinstance(cause, PermissionError):
            raise cause  # type: ignore[misc]
        with contextlib.suppress(FileNotFoundError):
            if os.fspath(name) != os.fspath(path):  # what lies around the folder is not ours to change
                os.chmod(os.path.dirname(name), 0o700)
            if function in (os.unlink, os.rmdir):
                function(name)
            elif os.lstat(name).st_mode & stat.S_IRWXU != stat.S_IRWXU:  # a folder that could not be looked into
                os.chmod(name, 0o700)
                discard(Path(name))
            else:
                raise cause

    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=grant_and_retry)
    else:
        shutil.rmtree(path, onerror=grant_and_retry)


@contextlib.contextmanager
def translated(operation: str, path: Path) -> Iterator[None]:
    """Say of an error of the operating system what was being done to which path, and the way out."""
    try:
        yield
    except SuperLuigiError:
        raise
    except OSError as error:
        problem = f"{error.strerror or error}" + (f" at {error.filename!r}" if error.filename is not None else "")
        hint = ""
        if config.data_dir() in (path, *path.parents):
            hint = " Private inputs and local copies are kept there; the setting local_data_dir names another place."
        if full_disks.is_meant(error):
            raise DiskFullError(operation, str(path), problem, f"Free some space, and run again.{hint}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            way_out = f"See that you may write there, or choose another path.{hint}"
            raise AccessDeniedError(operation, str(path), problem, way_out) from error
        way_out = f"See that the folder is there, and run again.{hint}"
        raise StorageError(operation, str(path), problem, way_out) from error


# Writing


def replace(staged: Path, destination: Path) -> None:
    """Put a staged file at its destination in one step; a reader sees the old bytes or the new ones."""
    is_durable = config.is_durable()
    if is_durable:
        _flush(staged)
    os.replace(staged, destination)
    if is_durable:
        _flush(destination.parent)


def write_atomically(destination: Path, data: bytes, *, staging: Path | None = None, mode: int = 0o666) -> None:
    """Write `data` to `destination` in one step; if that fails what was there stays, and nothing else is left.

    It is staged in the folder `staging` of the same file system, else beside the destination; a crash leaves there
    `.superluigi-<hex>.partial`. `mode` is that of the file, less the umask. Safe between threads and processes.
    """
    staged = (destination.parent if staging is None else staging) / f".superluigi-{uuid.uuid4().hex}.partial"
    try:
        with open(staged, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as stream:
            stream.write(data)
        replace(staged, destination)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise


def swap_folder(staged: Path, destination: Path) -> None:
    """Put a staged folder where a folder may stand; the old one is in place of `staged` afterwards.

    One step where the system can exchange two names (Linux, renameat2); elsewhere two renames, and a crash
    between them leaves the old folder at `staged` with the suffix `.replaced`.
    """
    if config.is_durable():
        for folder, _, names in os.walk(staged):
            for name in names:
                _flush(Path(folder, name))
            _flush(Path(folder))
    if not destination.is_dir():
        os.rename(staged, destination)
    elif not _exchange(staged, destination):
        replaced = replaced_name(staged)
        os.rename(destination, replaced)
        os.rename(staged, destination)
        os.rename(replaced, staged)
    if config.is_durable():
        _flush(destination.parent)


def replaced_name(staged: Path) -> Path:
    """Give where `swap_folder` keeps the old folder between its two renames."""
    return staged.with_name(f"{staged.name}{REPLACED_SUFFIX}")


def move(staged: Path, destination: Path) -> None:
    """Move a file or folder to a free place; a rename on one file system, else a copy that is removed on failure."""
    try:
        os.rename(staged, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        try:
            copy(staged, destination)
        except BaseException:
            discard(destination)
            raise
        discard(staged)


def _exchange(first: Path, second: Path) -> bool:
    if sys.platform != "linux":
        return False
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    sys.audit("os.rename", os.fspath(first), os.fspath(second), -1, -1)
    code = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if code == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), os.fspath(second))


def _flush(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle_links(folder: Path) -> None:
    """Let every link inside a folder be relative, so that it holds when the folder is renamed.

    Raises:
        InvalidNameError: a link points outside the folder, or nowhere, or round in a circle.
    """
    root = folder.resolve()
    for current, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            link = Path(current, name)
            if link.is_symlink():
                _check_link(link, root, link.relative_to(folder).as_posix())
                if os.path.isabs(os.readlink(link)):
                    aim = os.path.relpath(link.resolve(), link.parent.resolve())
                    link.unlink()
                    link.symlink_to(aim)


# Reading


def copy(source: Path, destination: Path) -> None:
    """Copy a file or a folder so that a change of the copy does not reach the source.

    Shares the blocks where the file system can (copy_file_range on Btrfs and XFS), else copies in the
    kernel. Links inside a folder are followed. The copy is writable by its owner.
    """
    if source.is_dir():
        destination.mkdir()
        for child in source.iterdir():
            copy(child, destination / child.name)
    else:
        _copy_file(source, destination)


def link(source: Path, destination: Path) -> None:
    """Let a path be the source's bytes without copying them: hard links, or symbolic ones across file systems.

    A change of the bytes by way of the new path reaches the source; a replacement or removal does not.
    """
    if source.is_dir():
        destination.mkdir()
        for child in source.iterdir():
            link(child, destination / child.name)
        return
    try:
        os.link(source.resolve(), destination)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES):
            raise
        destination.symlink_to(source.absolute())


def _copy_file(source: Path, destination: Path) -> None:
    if not hasattr(os, "copy_file_range"):
        shutil.copyfile(source, destination)
        return
    with open(source, "rb") as reader, open(destination, "wb") as writer:
        remaining = os.fstat(reader.fileno()).st_size
        while remaining:
            try:
                copied = os.copy_file_range(reader.fileno(), writer.fileno(), remaining)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
                    raise
                break
            if not copied:
                break
            remaining -= copied
        shutil.copyfileobj(reader, writer, _BLOCK_BYTES)


def digest(path: Path) -> str:
    """Give `sha256:<hex>` over the bytes of a file, read in blocks."""
    sha256 = hashlib.sha256()
    with open(path, "rb", buffering=0) as reader:
        while block := reader.read(_BLOCK_BYTES):
            sha256.update(block)
    return f"sha256:{sha256.hexdigest()}"


def files_in(folder: Path, *, may_lead_outside: bool = False) -> list[tuple[str, Path]]:
    """Give name and path of every file below a folder, sorted by name; names are relative, with `/`.

    Links are followed; in data that others made they may lead outside the folder, in our own outputs they may not.

    Raises:
        InvalidNameError: a link points outside the folder, or nowhere, or round in a circle.
    """
    root = folder.resolve()
    found: list[tuple[str, Path]] = []
    pending: list[tuple[str, Path]] = [("", folder)]
    while pending:
        prefix, current = pending.pop()
        with os.scandir(current) as children:
            for child in children:
                name = f"{prefix}{child.name}"
                if child.is_symlink():
                    _check_link(Path(child.path), root, name, may_lead_outside=may_lead_outside)
                if child.is_dir():
                    pending.append((f"{name}/", Path(child.path)))
                else:
                    found.append((name, Path(child.path)))
    return sorted(found)


def sizes_in(folder: Path, limit: int) -> tuple[list[tuple[str, int]], bool]:
    """Give names and sizes of the files below a folder, sorted, and whether there are more than so many.

    Links to folders are not followed, and one to nothing has no size. With more than `limit` files it is the first
    that are found.
    """
    found: list[tuple[str, int]] = []
    pending = [("", os.fspath(folder))]
    while pending:
        prefix, current = pending.pop()
        with os.scandir(current) as children:
            for child in children:
                if child.is_dir(follow_symlinks=False):
                    pending.append((f"{prefix}{child.name}/", child.path))
                    continue
                if len(found) >= limit:
                    return sorted(found), True
                try:
                    found.append((f"{prefix}{child.name}", child.stat().st_size))
                except OSError:
                    found.append((f"{prefix}{child.name}", 0))
    return sorted(found), False


def _check_link(link: Path, root: Path, name: str, *, may_lead_outside: bool = False) -> None:
    way_out = "Replace the link by the file itself, or let it point to a file inside the folder."
    try:
        aim = link.resolve(strict=True)
    except (OSError, RuntimeError):
        raise InvalidNameError(name, f"is a link to {os.readlink(link)!r}, which is not there", way_out) from None
    if not aim.is_relative_to(root) and not may_lead_outside:
        raise InvalidNameError(name, f"is a link to {str(aim)!r}, outside the folder", way_out)
    if link.parent.resolve().is_relative_to(aim):
        raise InvalidNameError(name, "is a link to a folder that holds the link", way_out)


def check_names(names: Iterable[str], address: str) -> None:
    """See that remote names can stand as files below one folder, each as itself.

    Raises:
        InvalidNameError: a name would leave the folder, cannot be a file here, or meets another name.
    """
    way_out = "Rename the object, or read it alone with S3ObjectTarget."
    known: dict[str, str] = {}
    folders: set[str] = set()
    for name in names:
        shown = f"{address}{name}"
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise InvalidNameError(shown, "holds an empty part, '.' or '..', and cannot be a file in a folder", way_out)
        if "\0" in name or any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in parts):
            raise InvalidNameError(shown, "holds a NUL, or a part of more than 255 bytes", way_out)
        if sys.platform == "win32" and any(re.search(_NOT_ON_WINDOWS, part) for part in parts):
            raise InvalidNameError(shown, "holds a part that Windows does not allow", way_out)
        folded = _folded(name)
        if folded in known:
            raise InvalidNameError(shown, f"and {known[folded]!r} are the same file on this system", way_out)
        known[folded] = name
        while "/" in folded:
            folded = folded.rpartition("/")[0]
            folders.add(folded)
    for folded in folders & known.keys():
        raise InvalidNameError(f"{address}{known[folded]}", "is an object and the folder of others, too", way_out)


def _folded(name: str) -> str:
    """Give the name as the usual file system of this platform tells names apart."""
    return unicodedata.normalize("NFC", name).casefold() if sys.platform in ("darwin", "win32") else name


def listing(folder: Path) -> list[Entry]:
    """Give every file below a folder with its digest, sorted by name. Reads all bytes."""
    return [Entry(name, path.stat().st_size, digest(path)) for name, path in files_in(folder, may_lead_outside=True)]


def digest_of_entries(entries: list[Entry]) -> str:
    """Give one digest over names, sizes and digests of a folder's files; empty folders do not count."""
    sha256 = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: entry.name):
        facts = f"{len(entry.name)}:{entry.name}:{entry.size_bytes}:{entry.digest}\n"
        sha256.update(facts.encode("utf-8", "surrogateescape"))
    return f"sha256-tree:{sha256.hexdigest()}"


def changed_stamp(path: Path, *, leave_out: str | None = None) -> str:
    """Give what changes when a file, or any file of a folder, is written again: sizes and modification times.

    A cheap sign that the bytes are untouched since a digest was recorded; nothing is read.
    """
    facts = os.stat(path)
    if not stat.S_ISDIR(facts.st_mode):
        return stamp_of(facts)
    sha256 = hashlib.sha256()
    for name, child in files_in(path, may_lead_outside=True):
        if name != leave_out:
            facts = child.stat()
            line = f"{len(name)}:{name}:{facts.st_size}:{facts.st_mtime_ns}\n"
            sha256.update(line.encode("utf-8", "surrogateescape"))
    return sha256.hexdigest()


def name_beside(name: str, suffix: str) -> str:
    """Give the name of what belongs to a file or folder: its own with a suffix, or a digest where that is too long."""
    if len(os.fsencode(f"{name}{suffix}")) > _MAX_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f"{name}{suffix}"


def stamp_of(facts: os.stat_result) -> str:
    """Give the stamp of one file by what the system tells of it."""
    return f"{facts.st_size}-{facts.st_mtime_ns}"
