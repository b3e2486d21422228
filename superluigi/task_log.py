"""What a task prints and logs, kept in a file of its own: `<data_dir>/logs/<run id>/<family>-<task id>.log`.

Everything still goes where it went before; the file is a copy. The invariant: `sys.stdout`, `sys.stderr` and the
handlers of `logging` are as before once no task runs, and a log that cannot be written disturbs no task. Kept are the
last `MAX_LOG_BYTES` of a task in a run, and of all runs `logs_max_bytes`, the oldest runs going first. What the
programs that a task starts write by themselves is not seen here.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
import re
import shutil
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from superluigi import config
from superluigi.forks import open_in_forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_LOG_BYTES = 1 << 20
_MAX_FILE_NAME = 80

_lock = open_in_forks(threading.RLock())
_open: list[TaskLog] = []  # of the tasks that run in this process now
_current: contextvars.ContextVar[TaskLog | None] = contextvars.ContextVar("superluigi_task_log", default=None)
_is_deaf: contextvars.ContextVar[bool] = contextvars.ContextVar("superluigi_is_deaf", default=False)


class TaskLog:
    """The log of one task in one run; the file is made when there is something to write. Safe between threads."""

    def __init__(self, run_id: str, family: str, task_id: str, title: Callable[[], str]) -> None:
        self._name = run_id, family, task_id
        self._context = contextvars.copy_context()  # with the settings of the call, which other threads do not see
        self._title = title
        self._size = 0
        self._is_begun = False
        self._has_failed = False
        self._lock = threading.Lock()
        self.read: Any = None  # what the run has read, as its record would tell of it; for who looks into a failure

    @functools.cached_property
    def path(self) -> Path:
        """Where the file is, or would be."""
        return self._context.run(path_of, *self._name)

    @property
    def is_written(self) -> bool:
        """Whether there is a file."""
        return self._is_begun and not self._has_failed

    def write(self, text: str) -> None:
        """Add text. What cannot be written is lost, and the task goes on."""
        if not text or self._has_failed:
            return
        data = text.encode("utf-8", "backslashreplace")
        try:
            with self._lock:
                if not self._is_begun:
                    self._context.run(_make_room, self.path.parent)
                    data = f"# {self._title()}, process {os.getpid()} on {socket.gethostname()}\n".encode() + data
                    self._size = self.path.stat().st_size if self.path.exists() else 0  # it was tried before
                    self._is_begun = True
                self._append(data)
        except Exception:  # noqa: BLE001  (a full disk, or a title that fails: the task is what counts)
            self._has_failed = True

    def _append(self, data: bytes) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, data)
        finally:
            os.close(handle)
        self._size += len(data)
        if self._size > MAX_LOG_BYTES:
            kept = self.path.read_bytes()[-MAX_LOG_BYTES // 2 :]
            shorter = b"# what was written before is left out\n" + kept[kept.find(b"\n") + 1 :]
            self.path.write_bytes(shorter)
            self._size = len(shorter)


def path_of(run_id: str, family: str, task_id: str) -> Path:
    """Give where the log of a task is on this machine, be it there or not."""
    readable = re.sub(r"[^\w.-]", "_", family)[-_MAX_FILE_NAME:]
    return _folder() / re.sub(r"[^\w-]", "_", run_id) / f"{readable}-{re.sub(r'[^0-9A-Za-z]', '_', task_id)[-32:]}.log"


def current() -> TaskLog | None:
    """Give the log of the task that runs here; for a thread that the task has started, if no other task runs."""
    log = _current.get()
    if log is not None:
        return log
    running = list(_open)
    return running[0] if len(running) == 1 else None


@contextlib.contextmanager
def kept(log: TaskLog) -> Iterator[TaskLog]:
    """Keep what is printed and logged while the block runs, in this thread and what it starts."""
    token = _current.set(log)
    with _lock:
        _open.append(log)
        _attach()
    try:
        yield log
    finally:
        with _lock:
            _open.remove(log)
            if not _open:
                _detach()
        _current.reset(token)


def _folder() -> Path:
    return config.data_dir() / "logs"


def _make_room(folder: Path) -> None:
    """Make the folder of a run, and remove those of the oldest while all take more than they may."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    runs = []
    for run in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # another process removes it, too
            size_bytes = sum(entry.stat().st_size for entry in os.scandir(run))
            runs.append((run.stat().st_mtime_ns, size_bytes, run))
    left_bytes = config.logs_max_bytes()
    for _, size_bytes, run in sorted(runs, reverse=True):
        left_bytes -= size_bytes
        if left_bytes < 0 and run != folder:
            shutil.rmtree(run, ignore_errors=True)


# Where it is heard


class _Heard:
    """A stream that passes everything on to the one that it stands for, and what tasks write to their logs as well."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> Any:
        """Write to both."""
        log = None if _is_deaf.get() else current()
        if log is not None:
            log.write(text)
        return self._stream.write(text)

    def writelines(self, lines: Any) -> None:
        """Write each to both."""
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        """Give what the stream itself has: its encoding, its file descriptor, whether it is a terminal."""
        return getattr(self._stream, name)


class _LogHandler(logging.Handler):
    """Keeps what is logged, but for what another handler writes to a stream that is heard."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record to the log of the task that runs here."""
        log = current()
        is_of_luigi = record.name == "luigi-interface"  # what it says is about the run
        handlers: list[Any] = [handler for handler in _handlers_of(record.name) if handler is not self]
        if not handlers and logging.lastResort is not None and record.levelno >= logging.lastResort.level:
            token = _is_deaf.set(is_of_luigi)
            try:
                logging.lastResort.handle(record)  # as Python does where there is no other handler
            finally:
                _is_deaf.reset(token)
            return
        is_heard = any(
            record.levelno >= handler.level and isinstance(getattr(handler, "stream", None), _Heard)
            for handler in handlers
        )
        if log is not None and not is_heard and not is_of_luigi:
            log.write(f"{self.format(record)}\n")


def _handlers_of(name: str) -> Iterator[logging.Handler]:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


_handler = _LogHandler()
_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))


def _attach() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Heard):
            setattr(sys, name, _Heard(stream))
    if _handler not in logging.root.handlers:
        logging.root.addHandler(_handler)


def _detach() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, _Heard):  # else the task has put another in its place
            setattr(sys, name, stream._stream)  # noqa: SLF001  (of this module)
    logging.root.removeHandler(_handler)
