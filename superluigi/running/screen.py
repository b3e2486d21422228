"""The screen that bars are on: what Python prints or logs there meanwhile appears above them, in whole lines.

The stream itself is given another `write` for that time, so that it does not matter who holds it: a handler that logs,
something that stands for `sys.stderr`, the user. What other programs write on the terminal themselves is not seen
here. The invariant: nothing that is written is lost or altered, but for bars within bars, and when nobody shows bars
any more all is as before.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

from superluigi.forks import open_in_forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_PENDING = 8192  # characters of a line that does not end

ScreenId: TypeAlias = tuple[int, int]  # what tells a terminal, or a file, from all others on a machine

# Where a debugger or a shell that a task has opened asks the user for the next command.
_TALKERS = frozenset({"cmd", "code", "pdb", "IPython", "ipdb", "pudb", "bpython", "ptpython"})
_TALKS = frozenset({"cmdloop", "interact", "interaction", "mainloop"})
_BELOW_TASKS = "superluigi.running.task_process"


# Who draws bars holds this one. tqdm's own is held between processes too: for ever, if one of them is killed with it.
drawing: Any = threading.RLock()


class Screen:
    """A terminal, or what stands for it, while bars are on it."""

    def __init__(self, stream: Any) -> None:
        from tqdm import tqdm

        self.users = 0
        self._tqdm: Any = tqdm
        self._outer_lock = getattr(tqdm, "_lock", None)
        self.file = _Direct(stream)
        self._taps = [_Tap(tapped, drawing, self._write_above) for tapped in _streams_on(stream)]

    def open(self) -> None:
        """Begin to let others write above the bars only."""
        self._tqdm.set_lock(drawing)
        for tap in self._taps:
            tap.open()

    def close(self) -> None:
        """Let all be as before."""
        with drawing:
            for tap in self._taps:
                tap.close()
            if self._outer_lock is not None:
                self._tqdm.set_lock(self._outer_lock)
            elif not self._tqdm._instances:  # noqa: SLF001  (a bar of the user's goes on with the lock that there is)
                del self._tqdm._lock  # noqa: SLF001

    def print(self, text: str) -> None:
        """Write lines above the bars, or where they were."""
        with drawing:
            self._write_above(self.file, text)

    def _write_above(self, file: Any, text: str) -> None:
        with self._tqdm.external_write_mode(file=self.file, nolock=True):
            file.write(text)
            file.flush()

    def forget(self) -> None:
        """Let a process that was forked from this one know nothing of it."""
        for tap in self._taps:
            tap.pending.clear()
            tap.close()
        for bar in [bar for bar in self._tqdm._instances if getattr(bar, "fp", None) == self.file]:  # noqa: SLF001
            self._tqdm._instances.discard(bar)  # noqa: SLF001
            bar.disable = True
        if self._outer_lock is not None:
            self._tqdm.set_lock(self._outer_lock)


_shared: list[Screen] = []  # one at most
_shared_lock = open_in_forks(threading.Lock())


@contextlib.contextmanager
def shared(stream: Any) -> Iterator[Screen]:
    """Give the screen for as long as the block shows bars on it: the one that is in use, or that of the stream."""
    with _shared_lock:
        if not _shared:
            screen = Screen(stream)
            screen.open()
            _shared.append(screen)
        screen = _shared[0]
        screen.users += 1
    try:
        yield screen
    finally:
        with _shared_lock:
            screen.users -= 1
            if not screen.users and screen in _shared:
                _shared.remove(screen)
                screen.close()


class _Direct:
    """A stream as it is without us. It equals all that writes to the same screen: tqdm asks whom to make room for."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.write = stream.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Direct) or other is self.stream or _is_on(other, self.stream)

    __hash__ = None  # type: ignore[assignment]


class _Tap:
    """A stream that hands on what is written to it, line by line; two threads do not write into one line."""

    def __init__(self, stream: Any, lock: Any, hand_on: Callable[[Any, str], object]) -> None:
        self.stream = stream
        self.pending: dict[int, str] = {}  # by thread: `print` writes the end of a line by itself
        self._direct = _Direct(stream)
        self._lock = lock
        self._hand_on = hand_on
        self._had_its_own = "write" in vars(stream)

    def open(self) -> None:
        self.stream.write = self._write

    def close(self) -> None:
        if self.stream.write == self._write:
            if self._had_its_own:
                self.stream.write = self._direct.write
            else:
                del self.stream.write
        for thread in tuple(self.pending):
            if pending := self.pending.pop(thread, ""):
                self._hand_on(self._direct, pending)

    def _write(self, text: Any) -> int:
        if not isinstance(text, str) or self._lock._is_owned():  # noqa: SLF001  (as the standard library's conditions)
            return int(self._direct.write(text))  # it is a bar that writes, or it fails as without us
        with self._lock:
            thread = threading.get_ident()
            pending = self.pending.pop(thread, "") + text
            lines, newline, rest = pending.rpartition("\n")
            if is_somebody_talking() or len(rest) > _MAX_PENDING:  # who asks something shows it before the line ends
                lines, newline, rest = pending, "", ""
            if rest:
                self.pending[thread] = rest[rest.rfind("\r", 0, -1) + 1 :]  # all before would be written over
            if lines or newline:
                self._hand_on(self._direct, lines + newline)
        return len(text)


def _streams_on(stream: Any) -> list[Any]:
    """Give what Python writes with on the screen of a stream."""
    known = [stream, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    found = {id(each): each for each in known if each is stream or (each is not None and _is_on(each, stream))}
    return [each for each in found.values() if hasattr(each, "__dict__")]


def _is_on(stream: Any, other: Any) -> bool:
    found = screen_id(stream)
    return found is not None and found == screen_id(other)


def screen_id(stream: Any) -> ScreenId | None:
    """Give what tells a stream's terminal, or file, from all others on this machine; None where there is none."""
    try:
        facts = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):  # it is closed, or not of this system
        return None
    return facts.st_dev, facts.st_ino


def id_in_use() -> ScreenId | None:
    """Give which screen bars are on, None where there are none."""
    return screen_id(_shared[0].file) if _shared else None


def is_somebody_talking() -> bool:
    """Say whether a debugger or a shell that a task has opened waits for the user, whom bars must not disturb."""
    return any(map(_is_talking, sys._current_frames().values()))  # noqa: SLF001  (the way to see other threads)


def _is_talking(frame: Any) -> bool:
    talks = False
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == _BELOW_TASKS:
            return talks
        talks = talks or (frame.f_code.co_name in _TALKS and module.partition(".")[0] in _TALKERS)
        frame = frame.f_back
    return False


@contextlib.contextmanager
def forwarded(send: Callable[[str], object], to: ScreenId | None) -> Iterator[None]:
    """Let what this process writes to the screen of another one's bars, in whole lines, be written by that one.

    `send` says False where that is not possible; it is written here then.
    """
    if to is None:
        yield
        return

    def hand_on(direct: _Direct, text: str) -> None:
        if send(text if text.endswith("\n") else f"{text}\n") is False:
            direct.write(text)

    lock = threading.RLock()
    known = {id(stream): stream for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)}
    taps = [_Tap(stream, lock, hand_on) for stream in known.values() if screen_id(stream) == to]
    for tap in taps:
        tap.open()
    try:
        yield
    finally:
        with lock:
            for tap in taps:
                tap.close()


def _forget_in_fork() -> None:
    while _shared:
        _shared.pop().forget()


if hasattr(os, "register_at_fork"):
    # Held over a fork, so that it is free in the child. Not by functions of ours: an interrupt that comes meanwhile
    # would be raised in them, and so be lost, and the lock be held for ever.
    reopen = drawing._at_fork_reinit  # noqa: SLF001  (see `forks`)
    os.register_at_fork(before=drawing.acquire, after_in_parent=drawing.release, after_in_child=reopen)
    os.register_at_fork(after_in_child=_forget_in_fork)
