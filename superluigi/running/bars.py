"""Bars of a run on a terminal or in a notebook: one for its tasks, one for each big transfer.

They are drawn from events alone, see `events`. The invariant: what is printed meanwhile stands above them in whole
lines, and when the run is over, however it ends, nothing of them is left.
"""

from __future__ import annotations

import contextlib
import enum
import multiprocessing
import sys
import threading
import time
import warnings
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from superluigi.running import screen
from superluigi.running.events import (
    RunEnded,
    Tally,
    TaskEvent,
    TasksAdded,
    TransferDirection,
    TransferEnded,
    TransferEvent,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from superluigi.running.events import ProgressEvent
    from superluigi.running.screen import Screen

_REDRAWN_S = 0.5  # between two drawings if nothing happens: the clock goes on
_DRAWN_S = 0.1  # between two drawings, whatever happens
_MAX_TRANSFERS = 8
_MAX_NAME = 32  # characters
_ECHO = len("^C")  # what a terminal shows of an interrupt, behind the bar

_TASKS = "{l_bar}{bar}| {n_fmt}/{total_fmt} done{postfix} [{elapsed}<{left}]"
_TRANSFER = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"


class _Place(enum.Enum):
    """Where code runs, as far as bars go."""

    OUTSIDE = enum.auto()
    IN_A_RUN = enum.auto()  # it is decided already whether there are bars by themselves
    TAKEN = enum.auto()  # there are bars, or it is a process in which there must be none


_place: ContextVar[_Place] = ContextVar("superluigi_bars", default=_Place.OUTSIDE)


def are_wanted(asked: bool | None) -> bool:  # noqa: FBT001  (the user's own argument)
    """Say whether a run shows bars: if asked to, or, with None, on a terminal and in a notebook.

    One set at a time: not within a run that has bars, nor in the process of a task.
    """
    place = _place.get()
    if place is _Place.TAKEN or sys.stderr is None:
        return False
    if asked is not None:
        return asked
    is_main = multiprocessing.parent_process() is None
    return place is _Place.OUTSIDE and is_main and (_is_terminal(sys.stderr) or _is_notebook())


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # ValueError: it is closed
        return False


def _is_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


@contextlib.contextmanager
def none_within() -> Iterator[None]:
    """Let nothing in the block show bars: it runs in the process of a task."""
    token = _place.set(_Place.TAKEN)
    try:
        yield
    finally:
        _place.reset(token)


@contextlib.contextmanager
def decided() -> Iterator[None]:
    """Let runs within the block, which is a run without bars, show some only if they are asked to."""
    token = _place.set(_Place.IN_A_RUN if _place.get() is _Place.OUTSIDE else _place.get())
    try:
        yield
    finally:
        _place.reset(token)


@contextlib.contextmanager
def shown() -> Iterator[Bars]:
    """Give a receiver of events that shows bars, which are gone when the block is left."""
    classes = _bar_classes()
    in_widgets = any(base.__module__ == "tqdm.notebook" for base in classes[0].__mro__)
    with none_within(), contextlib.ExitStack() as stack:
        # In a notebook without widgets both would be red, and print into one another, on stderr.
        stream = sys.stdout if _is_notebook() else sys.stderr
        held = None if in_widgets else stack.enter_context(screen.shared(stream))
        yield stack.enter_context(contextlib.closing(Bars(classes, held)))


class Bars:
    """Draws what events tell of."""

    def __init__(self, classes: tuple[Any, Any], held: Screen | None) -> None:
        self._task_bar_cls, self._bar_cls = classes
        self._screen = held
        self._file = None if held is None else held.file
        self._lock = screen.drawing
        self._tasks: Any = None
        self._transfers: dict[str, Any] = {}
        self._tally: Tally | None = None  # the last
        self._shown: Tally | None = None
        self._drawn = 0.0
        self._is_over = threading.Event()
        self._clock = threading.Thread(target=self._go_on, name="superluigi-bars", daemon=True)

    def __call__(self, event: ProgressEvent) -> None:
        """Show an event."""
        with self._lock:
            if isinstance(event, TransferEvent):
                self._show_transfer(event)
            elif isinstance(event, TaskEvent | TasksAdded):
                self._tally = event.tally
                if time.monotonic() - self._drawn >= _DRAWN_S:
                    self._show_tally(event.tally)
            elif isinstance(event, RunEnded):
                self._remove_all()

    def print(self, text: str) -> None:
        """Print lines of another process above the bars."""
        if self._screen is not None:
            self._screen.print(text)

    def _show_tally(self, tally: Tally) -> None:
        if self._tasks is None:
            self._tasks = self._task_bar_cls(
                desc="Tasks", total=tally.total, bar_format=_TASKS, leave=False, file=self._file, dynamic_ncols=True
            )
            self._begin_clock()
        bar = self._tasks
        bar.n, bar.total = tally.done, tally.total
        if hasattr(bar, "container"):
            bar.container.children[-2].max = tally.total  # tqdm sets it when the bar is made, and never again
        failed = f", {tally.failed} failed" if tally.failed else ""
        bar.postfix = f"{tally.running} running{failed}, {tally.remaining} remaining"
        if tally is not self._shown:  # else what is left has become less since
            self._shown = tally
            bar.expect_end(tally.left_s)
        bar.refresh()
        self._drawn = time.monotonic()

    def _show_transfer(self, event: TransferEvent) -> None:
        bar = self._transfers.get(event.transfer_id)
        if isinstance(event, TransferEnded):
            if bar is not None:
                del self._transfers[event.transfer_id]
                bar.close()
        elif bar is not None:
            bar.update(event.done_bytes - bar.n)
        elif len(self._transfers) < _MAX_TRANSFERS:
            self._transfers[event.transfer_id] = self._bar_cls(
                desc=_named(event),
                total=event.total_bytes,
                initial=event.done_bytes,
                bar_format=_TRANSFER,
                unit="B",
                unit_scale=True,
                leave=False,
                file=self._file,
                dynamic_ncols=True,
            )
            self._begin_clock()

    def _begin_clock(self) -> None:
        if self._clock.ident is None:
            self._clock.start()

    def _go_on(self) -> None:
        while not self._is_over.wait(_REDRAWN_S):
            with self._lock:
                if self._is_over.is_set():
                    return
                if self._tally is not None:
                    self._show_tally(self._tally)
                for bar in self._transfers.values():
                    bar.refresh()

    def _remove_all(self) -> None:
        self._is_over.set()
        for bar in (*self._transfers.values(), self._tasks):
            if bar is not None:
                bar.close()
        self._transfers.clear()
        self._tasks = None

    def close(self) -> None:
        """Remove what is still shown."""
        with self._lock:
            self._remove_all()
        if self._clock.ident is not None:
            self._clock.join(timeout=_REDRAWN_S)  # in a fork it does not live


def _named(event: TransferEvent) -> str:
    """Give what a transfer's bar is called: its direction, and the end of its address."""
    verb = "Upload" if event.direction is TransferDirection.UPLOAD else "Download"
    name = event.address if len(event.address) <= _MAX_NAME else f"...{event.address[3 - _MAX_NAME :]}"
    return f"{verb} {name}"


def _with_echo(show: Callable[[str], None]) -> Callable[[str], None]:
    """Give what shows the text of a bar and, where that is nothing, also removes what the terminal wrote behind it."""
    last = ""

    def show_text(text: str) -> None:
        nonlocal last
        if last and not text:
            show(" " * (len(last) + _ECHO))
        show(text)  # of nothing too: tqdm would go on to pad what comes next up to the echo, which then had no room
        last = text

    return show_text


def _bar_classes() -> tuple[Any, Any]:
    """Give the class of the bar of tasks and that of the others; tqdm chooses between a terminal and a notebook."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no widgets in this notebook: then the bars are text
        from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        """A bar that lets the user talk to a debugger, needs no thread of tqdm's, and goes whole after a Ctrl-C."""

        monitor_interval = 0

        @staticmethod
        def status_printer(file: Any, *widget: Any) -> Any:
            found = tqdm.status_printer(file, *widget)
            return found if widget else _with_echo(found)

        @property
        def format_dict(self) -> Any:
            facts = super().format_dict
            if isinstance(facts.get("ncols"), int):
                facts["ncols"] = max(1, facts["ncols"] - _ECHO)  # behind a wider one the echo would begin a line
            return facts

        def display(self, msg: str | None = None, *args: Any, **kwargs: Any) -> Any:
            if msg is None and not kwargs and screen.is_somebody_talking():
                return False
            return super().display(msg, *args, **kwargs)

    class TaskBar(Bar):
        """A bar whose end is expected by what its tasks take, and not by how many were done up to now."""

        end: float | None = None

        def expect_end(self, left_s: float | None) -> None:
            self.end = None if left_s is None else time.monotonic() + left_s

        @property
        def format_dict(self) -> Any:
            left_s = None if self.end is None else max(0.0, self.end - time.monotonic())
            return {**super().format_dict, "left": "?" if left_s is None else self.format_interval(left_s)}

    return TaskBar, Bar
