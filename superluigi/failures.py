"""What is told of a task that failed, and which tasks failed last on this machine.

The way of an error: Luigi's task process takes it, with its traceback as text; here the lines of the user's own code
are found in that, and what the task was given; `TaskFailedError` shows it, and `debug` enters the task again. The
invariant: whatever is wrong with the user's code, telling of a failure raises nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import linecache
import os
import pickle
import re
import signal
import socket
import sys
import sysconfig
import traceback
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import luigi

from superluigi import config, dag, provenance
from superluigi.errors import FailureInput, Frame, TaskFailure, TaskTypeError, public_name
from superluigi.origins import INSTALLED
from superluigi.records import inputs_of
from superluigi.source import DYNAMIC
from superluigi.storage import workplace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FRAME = re.compile(r'^\s*File "(?P<path>.*)", line (?P<line>\d+), in (?P<function>.*)$')
_MARKS = re.compile(r"^\s*[~^]+\s*$")  # under the part of a line that failed
_DIED = re.compile(r"died unexpectedly with exit code (?P<code>-?\d+)$")  # in Luigi's worker
_TIMED_OUT = re.compile(r"^Task \S+ timed out")  # there as well
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MAX_LINE = 1000
_MAX_LINES = 200
_MAX_INNER = 5
INTERRUPTED = 128 + signal.SIGINT  # the exit code of a task's process, as shells have it
SAID_OF_INTERRUPTION = "it was interrupted, as by Ctrl-C"
_HEADER = "Traceback (most recent call last):"
_MAX_REMEMBERED = 20


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of a failure where it happened: what was read (see `_Execution`), and where its log is."""

    read: Any = None
    log: str | None = None
    host: str = ""


def failure_of(
    task: luigi.Task, error: BaseException | None, text: str, circumstances: Circumstances | None = None
) -> TaskFailure:
    """Give what is told of a failure; `text` is its traceback, or a sentence where there is none."""
    where = circumstances or Circumstances()
    secrets = provenance.secrets_of(task)
    return TaskFailure(
        task=public_name(task),
        reason=provenance.masked(_reason(error, text), secrets),
        exception=error,
        traceback=provenance.masked(text, secrets),
        frames=tuple(_frames(task, error, text)),
        inputs=tuple(_inputs(task, where.read)),
        log=where.log,
        host=where.host if where.host not in ("", socket.gethostname()) else None,
    )


def _reason(error: BaseException | None, text: str) -> str:
    if error is None:
        said = text.strip().rpartition("\n")[2]
        died = _DIED.search(said)
        if died is not None:
            return _of_death(int(died["code"]))
        return _clean(_TIMED_OUT.sub("it timed out", said))
    lines = [said_by(error), *map(str, getattr(error, "__notes__", ()))]
    lines += [f"- {said_by(inner)}" for inner in list(getattr(error, "exceptions", ()))[:_MAX_INNER]]
    return _clean("\n".join(lines))


def said_by(error: object) -> str:
    """Give the class of an error and what it says, if it says anything."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001  (the user's own __str__ may fail in whatever way)
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _clean(text: str) -> str:
    """Give a text without what would move the cursor of a terminal, each line no longer than can be read."""
    lines = [line if len(line) <= _MAX_LINE else f"{line[: _MAX_LINE - 1]}…" for line in text.split("\n")]
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], "\n".join(lines[:_MAX_LINES]))


def _of_death(code: int) -> str:
    """Say how a process ended without a word; by a negative code `multiprocessing` tells of a signal."""
    if code == INTERRUPTED:
        return SAID_OF_INTERRUPTION
    if code >= 0:
        return f"its process ended with the exit code {code}, without an exception"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


# The lines of the user's own code


def from_the_user(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Give a traceback without the frames of Luigi and of this library that led to the user's code."""
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_RUNNERS):
        first = first.tb_next
    return first or trace


def frames_below_the_user(task: luigi.Task, trace: types.TracebackType | None) -> int:
    """Give how many frames of libraries lie between the user's own code and the place where an error was raised."""
    own = _folder_of_package(type(task))
    of_the_user = [_is_of_the_user(frame.f_code.co_filename, own) for frame, _ in traceback.walk_tb(trace)]
    return of_the_user[::-1].index(True) if any(of_the_user) else 0


def text_for_log(task: luigi.Task, error: BaseException) -> str:
    """Give the traceback of an error as text, from the user's code on."""
    text = "".join(traceback.format_exception(type(error), error, from_the_user(error.__traceback__)))
    return provenance.masked(text, provenance.secrets_of(task))


def _frames(task: luigi.Task, error: BaseException | None, text: str) -> Iterator[Frame]:
    try:
        found = _of_traceback(error) if error is not None and error.__traceback__ is not None else _of_text(text)
        own = _folder_of_package(type(task))
        known = (_with_source(frame, task) for frame in found if _is_of_the_user(frame.path, own))
        yield from (frame for frame in known if frame is not None)
    except Exception:  # noqa: BLE001  (a source that cannot be read must not hide the error)
        return


def _of_traceback(error: BaseException) -> list[Frame]:
    extracted = traceback.extract_tb(error.__traceback__)
    return [Frame(one.filename, one.lineno or 0, one.name, (one.line or "").strip()) for one in extracted]


def _of_text(text: str) -> list[Frame]:
    """Give the frames of the exception that was raised, which is told last, after those that it was raised from."""
    lines = text.rpartition(_HEADER)[2].split("\n")
    frames: list[Frame] = []
    for number, line in enumerate(lines):
        found = _FRAME.match(line)
        if found:
            following = lines[number + 1] if number + 1 < len(lines) else ""
            is_source = following.startswith("    ") and not _FRAME.match(following) and not _MARKS.match(following)
            source = following.strip() if is_source else ""
            frames.append(Frame(found["path"], int(found["line"]), found["function"], source))
    return frames


def _is_of_the_user(path: str, own: str | None) -> bool:
    if path == DYNAMIC or (own is not None and path.startswith(own)):
        return True
    if path.startswith("<frozen ") or path.startswith(_LIBRARIES):
        return False
    return not INSTALLED & set(path.split(os.sep))


def _spelled(*folders: str) -> tuple[str, ...]:
    return tuple(os.path.join(name, "") for folder in folders for name in (folder, os.path.realpath(folder)))


_RUNNERS = _spelled(os.path.dirname(__file__), os.path.dirname(luigi.__file__))
_LIBRARIES = (*_RUNNERS, *_spelled(sysconfig.get_paths()["stdlib"]))


def _folder_of_package(task_cls: type) -> str | None:
    """Give the folder of an installed package that the class is part of: there it is the user's own code.

    None for a class of this library or of Luigi, such as `External`: of those nothing is the user's own.
    """
    package = task_cls.__module__.partition(".")
    module = sys.modules.get(package[0])
    file = getattr(module, "__file__", None)
    if not file or not hasattr(module, "__path__") or file.startswith(_RUNNERS):
        return None
    return os.path.join(os.path.dirname(file), "")


def _with_source(frame: Frame, task: luigi.Task) -> Frame | None:
    """Give a frame with its source, which stays here where a class travels to a pool by value; None if it has none."""
    if frame.path != DYNAMIC:
        return frame
    for function in _functions_of(type(task)):
        code = function.__code__
        lines = [line for *_, line in code.co_lines() if line is not None]
        if code.co_name == frame.function.rpartition(".")[2] and lines and min(lines) <= frame.line <= max(lines):
            source = linecache.getline(code.co_filename, frame.line, function.__globals__).strip()
            return Frame(code.co_filename, frame.line, frame.function, source)
    return None


def _functions_of(task_cls: Any) -> Iterator[types.FunctionType]:
    """Give the functions of a class, then those of its module; each as it was written, not as it was wrapped."""
    members: list[Any] = [member for base in task_cls.__mro__ for member in vars(base).values()]
    module = sys.modules.get(task_cls.__module__)
    members += list(vars(module).values()) if module is not None else []
    for member in members:
        with contextlib.suppress(Exception):  # what a module holds may do anything when it is looked at
            function = inspect.unwrap(member) if callable(member) else member
            if isinstance(function, types.FunctionType):
                yield function


# What it was given


def _inputs(task: luigi.Task, read: Any) -> Iterator[FailureInput]:
    try:
        if read:
            for given in inputs_of(provenance.keyed_by_text(read)):  # as a record would tell of them
                yield FailureInput(given.name, given.path, given.fingerprint)
            return
        for role, upstream in dag.required(task):
            for place, target in dag.leaves(dag.output(upstream)):
                name = ".".join(str(part) for part in (*role, *place) if part is not None)
                yield FailureInput(name, dag.place_of(target))
    except Exception:  # noqa: BLE001  (the user's requires() and output() may fail, and perhaps this is the failure)
        return


# Those that failed last

_last: list[luigi.Task] = []


def remember(tasks: Sequence[luigi.Task]) -> bool:
    """Keep the tasks that failed in a run, for `debug(last=True)` in this process or in another on this machine.

    The file holds their parameters, private ones among them; nobody else may read it. A plan remembers nothing, and is
    told so.
    """
    if workplace.is_hands_off():
        return False
    _last[:] = tasks[:_MAX_REMEMBERED]
    with contextlib.suppress(Exception):  # what does not pickle can be entered from this process alone
        import cloudpickle

        data = cloudpickle.dumps((os.path.abspath(sys.path[0]), [_packed(task) for task in _last]))
        workplace.keep(_file(), data, mode=0o600)
    return True


def recall() -> Sequence[luigi.Task]:
    """Give the tasks that failed last, of this process or else of the machine; none if none has, or all is forgotten.

    The class of a script is taken from the script as it is now.

    Raises:
        TaskTypeError: what is remembered cannot be read here.
    """
    if _last or not _file().exists():
        return tuple(_last)
    try:
        folder, kept = pickle.loads(_file().read_bytes())  # noqa: S301  (this machine's own file)
        for place in (folder, os.getcwd()):  # where the neighbours of the script were, and are
            if place not in sys.path:
                sys.path.insert(0, place)
        return tuple(_unpacked(place, data) for place, data in kept)
    except Exception as error:
        message = (
            f"The task that failed last cannot be read from {_file()}: {said_by(error)}. Start where its module can be "
            "imported, or give the task: debug(task)."
        )
        raise TaskTypeError(message) from error


_Place: TypeAlias = "tuple[str, str, dict[str, Any]] | None"


def _packed(task: luigi.Task) -> tuple[_Place, bytes]:
    """Give a task to be kept; of one whose class stands in a script also where that is, as its code may be mended."""
    import cloudpickle

    data = cloudpickle.dumps(task)
    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if type(task).__module__ != "__main__" or file is None or spec is not None:
        return None, data
    return (os.path.abspath(file), type(task).__qualname__, dict(task.param_kwargs)), data


def _unpacked(place: _Place, data: bytes) -> luigi.Task:
    """Give a task that was kept. The bytes name the modules beside its script, which may not be found from here."""
    if place is None or not os.path.isfile(place[0]):
        kept: luigi.Task = pickle.loads(data)  # noqa: S301  (this machine's own file)
        return kept
    file, name, params = place
    spec = importlib.util.spec_from_file_location("__mp_main__", file)  # the name that multiprocessing gives it
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, os.path.dirname(file))  # as Python does for a script
    spec.loader.exec_module(module)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    again: luigi.Task = found(**params)
    return again


def _file() -> Path:
    return config.data_dir() / "last_failure.pickle"
