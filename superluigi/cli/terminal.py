"""What the command line has to do with the terminal: exit codes, colour, the two streams, errors, the debugger.

The invariant: on standard output stands what was asked for and nothing else, whatever is printed meanwhile, by us, by
tasks or by the programs that they start.
"""

from __future__ import annotations

import contextlib
import difflib
import enum
import importlib
import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi
from luigi.execution_summary import LuigiStatusCode

import superluigi.errors
from superluigi.errors import (
    ConfigError,
    CycleError,
    ExecutorError,
    InvalidNameError,
    MissingExtraError,
    MissingParameterError,
    RunSignatureError,
    SchedulerUnavailableError,
    StorageError,
    StoreUnavailableError,
    SuperLuigiError,
    TargetNotFoundError,
    TaskFailedError,
    TaskTypeError,
    UnknownTaskError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TextIO


class ExitCode(enum.IntEnum):
    """How a command ended; docs/cli.md has the same table, and it only grows."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DIFFERS = 3
    MISSING = 4
    UNREACHABLE = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


@dataclass(frozen=True)
class Answer:
    """What was asked for, to be read, and as JSON's own types.

    `text` may be a function of whether to colour. `is_told` says that the text has been printed in other words
    meanwhile, so that a terminal need not show it again.
    """

    text: str | Callable[[bool], str]
    data: Any = None
    code: ExitCode = ExitCode.OK
    is_told: bool = False


class UsageError(Exception):
    """A command line that cannot be followed; the message says what is so and the way out."""


class FailedToImportError(Exception):
    """The user's module raised when it was imported; the exception is the cause."""


class PostMortem(Exception):  # noqa: N818  (no error of its own: it carries the user's to the debugger)
    """The user asked for a debugger where a task fails; the exception is the cause."""

    def __init__(self, task: luigi.Task) -> None:
        self.task = task
        super().__init__()


# Names


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Give a question that names what may have been meant, or nothing."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    found = [by_folded[close] for close in difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)]
    return f" Did you mean {listed(found, 'or')}?" if found else ""


def listed(names: Sequence[str], word: str = "and") -> str:
    """Give names as a list in a sentence."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# Streams


def wants_colour(stream: TextIO) -> bool:
    """Say whether to colour what is written: on terminals, unless NO_COLOR or TERM=dumb; FORCE_COLOR colours it all."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def coloured(text: str, code: str, stream: TextIO) -> str:
    """Give text in a colour of the terminal where the stream wants colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if wants_colour(stream) else text


def open_what_is_closed() -> None:
    """Let there be streams, as in a job that was started without them: what is written to them is lost."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for as long as the process lives)


@contextlib.contextmanager
def stdout_kept_free() -> Iterator[None]:
    """Let all that is printed meanwhile go to standard error, also what other programs print.

    Where both streams are a terminal nothing is moved: nobody reads one of them alone, and breakpoints keep the
    terminal's line editing.
    """
    if sys.stdout.isatty() and sys.stderr.isatty():
        yield
        return
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream of a test or a notebook has no file
            number, aim = sys.stdout.fileno(), sys.stderr.fileno()
            kept = os.dup(number)
            os.dup2(aim, number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            stack.callback(sys.stderr.flush)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def tell(answer: Answer, *, as_json: bool) -> ExitCode:
    """Write an answer to standard output and give its exit code; a reader that has gone away is no error."""
    if as_json:
        text = json.dumps(answer.data, indent=2, ensure_ascii=False, default=str)
    else:
        text = answer.text if isinstance(answer.text, str) else answer.text(wants_colour(sys.stdout))
        text = "" if answer.is_told and sys.stdout.isatty() else text
    try:
        if text:
            _write(sys.stdout, text)
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more when it ends, and would complain.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return ExitCode.PIPE_CLOSED
        problem, way_out = str(error.strerror or error), "Free some space there, or write the answer elsewhere."
        raise StorageError("write the answer", "standard output", problem, way_out) from error
    return answer.code


def _write(stream: TextIO, text: str) -> None:
    """Write a line or more; what the stream cannot encode is escaped, and names of files keep their bytes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        is_utf8 = encoding.lower().replace("-", "") == "utf8"
        buffer = getattr(stream, "buffer", None)
        if is_utf8 and buffer is not None:
            stream.flush()
            buffer.write(text.encode(encoding, "surrogateescape") + b"\n")
            return
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    stream.write(f"{text}\n")


# Errors


def report(error: BaseException) -> ExitCode:
    """Say on standard error what went wrong, and give the exit code."""
    lines = []
    if isinstance(error, KeyboardInterrupt):
        lines.append("Interrupted.")
    elif isinstance(error, FailedToImportError):
        lines += [users_traceback(error.__cause__ or error), f"{_error()} {error}"]
    elif isinstance(error, SuperLuigiError | UsageError):
        lines.append(f"{_error()} {error}{_hint(error)}")
    else:
        lines.append(users_traceback(error))
    with contextlib.suppress(BrokenPipeError):
        _write(sys.stderr, "\n".join(line.rstrip("\n") for line in lines))
        sys.stderr.flush()
    return code_of(error)


def code_of(error: BaseException) -> ExitCode:
    """Give the exit code that says of what kind an error is."""
    if isinstance(error, TaskFailedError):
        if isinstance(error.__cause__, StoreUnavailableError) and not error.can_be_debugged:
            return ExitCode.UNREACHABLE
        is_missing = error.summary == LuigiStatusCode.MISSING_EXT.value[1]
        return ExitCode.MISSING if is_missing else ExitCode.FAILED
    if isinstance(error, ExecutorError):
        return ExitCode.UNREACHABLE if _is_silence(error.__cause__) else ExitCode.FAILED
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    return ExitCode.FAILED


def _is_silence(cause: BaseException | None) -> bool:
    """Say whether nobody answers Dask: its `OSError` has no number, as one of a process that cannot be started has."""
    return isinstance(cause, OSError) and cause.errno is None


_CODES: tuple[tuple[tuple[type[BaseException], ...], ExitCode], ...] = (
    ((KeyboardInterrupt,), ExitCode.INTERRUPTED),
    ((UsageError, FailedToImportError, ConfigError, CycleError, InvalidNameError), ExitCode.USAGE),
    ((MissingExtraError, MissingParameterError, RunSignatureError, TaskTypeError), ExitCode.USAGE),
    ((TargetNotFoundError,), ExitCode.MISSING),
    ((SchedulerUnavailableError, StoreUnavailableError), ExitCode.UNREACHABLE),
)


def _hint(error: Exception) -> str:
    """Give what helps on a command line and is not in the message, which is written for callers in Python."""
    if isinstance(error, UnknownTaskError):
        return nearest(error.name, error.candidates)
    if isinstance(error, SchedulerUnavailableError):
        return " On the command line: --config superluigi.scheduler_url=http://host:8082"
    if isinstance(error, TaskFailedError) and error.can_be_debugged and error.is_remembered:
        return "\nOn the command line: superluigi debug"
    return ""


def _error() -> str:
    return coloured("error:", "1;31", sys.stderr)


_OURS = tuple(f"{Path(package.__file__ or '').parent}{os.sep}" for package in (superluigi, luigi))
_IMPORTING = (f"{Path(importlib.__file__ or '').parent}{os.sep}", "<frozen ")


def _is_users(filename: str) -> bool:
    return not filename.startswith((*_OURS, *_IMPORTING))


def users_traceback(error: BaseException) -> str:
    """Give a traceback without the frames of the library, of Luigi and of the import; whole if no others are in it."""
    told = traceback.TracebackException.from_exception(error)
    pending: list[traceback.TracebackException | None] = [told]
    while pending:
        one = pending.pop()
        if one is not None:
            kept = [frame for frame in one.stack if _is_users(frame.filename)]
            is_told = bool(kept) or getattr(one, "lineno", None) is not None  # a SyntaxError says where it is itself
            one.stack = traceback.StackSummary.from_list(kept if is_told else list(one.stack))
            pending += [one.__cause__, one.__context__]
    return "".join(told.format())
