"""What a task prints and logs, kept in a file of its own: `<data_dir>/logs/<run id>/<family>-<task id>.log`.

Everything still goes where it went before; the file is a copy. The invariant: `sys.stdout`, `sys.stderr` and
`logging` are as before once no task runs, and a log that cannot be written disturbs no task. Kept are the
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
from collections import deque
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
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.clear)  # those of the parent do not run here
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
        self._handle: int | None = None
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
                    title = f"# {self._title()}, process {os.getpid()} on {socket.gethostname()}\n"
                    data = title.encode("utf-8", "backslashreplace") + data
                    self._size = self.path.stat().st_size if self.path.exists() else 0  # it was tried before
                    self._is_begun = True
                self._append(data)
        except Exception:  # noqa: BLE001  (a full disk, or a title that fails: the task is what counts)
            self._has_failed = True

    def close(self) -> None:
        """Let go of the file; what is written later opens it again."""
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                os.close(handle)

    def _append(self, data: bytes) -> None:
        if self._handle is None:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._handle, data)
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
            if log in _open:  # not in a process that the task itself has forked
                _open.remove(log)
            if not _open:
                _detach()
        _current.reset(token)
        log.close()


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
        written = self._stream.write(text)
        log = None if _is_deaf.get() else current()
        if log is not None:
            log.write(text)
        return written

    def writelines(self, lines: Any) -> None:
        """Write each to both."""
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        """Give what the stream itself has: its encoding, its file descriptor, whether it is a terminal."""
        if name == "_stream":  # copied, and not yet filled
            raise AttributeError(name)
        return getattr(self._stream, name)


_format = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s").format
_call_handlers = logging.Logger.callHandlers


def _call_handlers_and_keep(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Do what a logger does with a record, and keep it where no handler has written it to a stream that is heard.

    It stands in the place of a method of `logging`: a handler on the root logger would make `basicConfig` do nothing.
    """
    is_of_luigi = record.name == "luigi-interface"  # what it says is about the run
    token = _is_deaf.set(is_of_luigi or _is_deaf.get())
    try:
        _call_handlers(logger, record)
    finally:
        _is_deaf.reset(token)
    log = None if is_of_luigi else current()
    if log is not None and not any(_is_heard(handler, record) for handler in _handlers_of(logger)):
        log.write(f"{_format(record)}\n")


def _is_heard(handler: Any, record: logging.LogRecord) -> bool:
    stream = getattr(handler, "stream", None)
    return record.levelno >= handler.level and isinstance(stream, _Heard)


def _handlers_of(of: logging.Logger) -> list[logging.Handler]:
    """Give the handlers that a record of a logger reaches; where there is none Python asks the one of last resort."""
    found: list[logging.Handler] = []
    logger: logging.Logger | None = of
    while logger is not None:
        found += logger.handlers
        logger = logger.parent if logger.propagate else None
    return found or ([] if logging.lastResort is None else [logging.lastResort])


_heard: deque[_Heard] = deque(maxlen=1000)  # another thread may be within a print to one that is no longer in its place


def _attach() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Heard):
            known = next((heard for heard in _heard if heard._stream is stream), None)  # noqa: SLF001  (of this module)
            if known is None:
                known = _Heard(stream)
                _heard.append(known)
            setattr(sys, name, known)
    if logging.Logger.callHandlers is not _call_handlers_and_keep:
        logging.Logger.callHandlers = _call_handlers_and_keep  # type: ignore[method-assign, assignment]


def _detach() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, _Heard):  # else the task has put another in its place
            setattr(sys, name, stream._stream)  # noqa: SLF001
    if logging.Logger.callHandlers is _call_handlers_and_keep:
        logging.Logger.callHandlers = _call_handlers  # type: ignore[method-assign]
