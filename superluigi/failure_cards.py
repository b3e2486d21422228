"""How a notebook shows a run that failed: a card for `TaskFailedError`, and the text that IPython prints of it.

Nothing is hidden: the tracebacks are there to be unfolded, `%tb` prints the whole one, and `%debug` stands where it
would without this.
"""

from __future__ import annotations

import copy
import functools
import sys
import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Any

from superluigi import markup
from superluigi.markup import Tone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from superluigi.errors import TaskFailedError, TaskFailure
    from superluigi.markup import Markup

_MAX_SHOWN = 20
_MAX_REASON_LINES = 12
_MAX_INPUTS = 10
_WHOLE = "%tb prints the whole traceback."
_RENDERED = "_was_rendered"
_PACKAGE = f"{__name__.partition('.')[0]}."


def card_of(error: TaskFailedError) -> str:
    """Give the card: per failed task why it failed, and its traceback to be unfolded."""
    count = len(error.failures)
    title = f"✗ {count} task{'s' if count != 1 else ''} failed" if count else f"✗ {error.summary}"
    parts = [part for failure in error.failures[:_MAX_SHOWN] for part in _of_failure(failure)]
    if count > _MAX_SHOWN:
        parts.append(markup.facts([("", f"… and {count - _MAX_SHOWN} more")]))
    return markup.card(markup.titled(markup.said(title, Tone.BAD)), *parts)


def _of_failure(failure: TaskFailure) -> Iterator[Markup]:
    reasons = failure.reason.split("\n")
    reasons[_MAX_REASON_LINES:] = ["…"] if len(reasons) > _MAX_REASON_LINES else []
    rows: list[tuple[str, str]] = [("task", failure.task), ("why", markup.lines(reasons))]
    frames = [markup.said(line, kind="path") for frame in failure.frames for line in str(frame).split("\n")]
    if frames:
        rows.append(("where", markup.lines(frames)))
    inputs = [
        markup.beside(markup.said(given.role, kind="role"), markup.said(given.path, kind="path"))
        for given in failure.inputs[:_MAX_INPUTS]
    ]
    if inputs:
        rows.append(("inputs", markup.lines(inputs)))
    if failure.log is not None:
        rows.append(("log", markup.said(failure.log, kind="path")))
    yield markup.facts(rows)
    if failure.traceback.strip():
        yield markup.folded("traceback", failure.traceback.strip())


def rendered(error: TaskFailedError) -> list[str]:
    """Give what IPython prints of an error that left a cell: as always, but for the frames of Luigi and of ours.

    What the task has raised is in the message. A second time, as `%tb` asks for it, it is the whole traceback.
    """
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None:
        return traceback.format_exception(error)
    printed = functools.partial(shell.InteractiveTB.structured_traceback, type(error), tb_offset=1)
    if vars(error).get(_RENDERED):
        return list(printed(error, error.__traceback__))
    outside = _without_ours(error.__traceback__)
    vars(error)[_RENDERED] = True
    return [*printed(copy.copy(error), outside), _WHOLE]  # the copy has no cause that would be printed, too


def _without_ours(found: TracebackType | None) -> TracebackType | None:
    """Give a traceback as far as it leads to this library."""
    entries = []
    while found is not None and not found.tb_frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        entries.append(found)
        found = found.tb_next
    outside: TracebackType | None = None
    for entry in reversed(entries):
        outside = TracebackType(outside, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return outside
