"""What a class expects of the values that its runs put into `metadata`, and the values of former runs.

The way of a value: `run` puts it into `metadata`; before anything is published it is compared with what the class
expects; when all is published it is added to the history of the class on this machine. The invariant: what breaks an
expectation is not published, and the history tells only of what was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import luigi

from superluigi import config
from superluigi.errors import ConfigError, ExpectationError, TaskTypeError
from superluigi.origins import origin_of
from superluigi.storage import processes, workplace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from superluigi.luigi_task import AnyTask
    from superluigi.targets.metadata import Metadata

_MAX_BYTES = 4 << 20  # of a class's history, of which the older half goes when there are more
_SHOWN = 10
_MAX_TEXT = 200  # characters
_MAX_FILE_NAME = 80
_told: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a value has to be: `holds` is asked with the value and the former ones, `text` says it in words."""

    text: str
    holds: Callable[[Any, Sequence[float]], bool]
    of_last: int = 0


def between(low: float, high: float) -> Expectation:
    """Expect a number from `low` to `high`, both allowed.

    Raises:
        ConfigError: a bound is no number, or `low` is above `high`.
    """
    if not (_is_number(low) and _is_number(high) and low <= high):
        message = f"between({low!r}, {high!r}) takes two numbers, the lower one first."
        raise ConfigError(message)
    return Expectation(f"from {low} to {high}", lambda value, _: bool(low <= _number(value) <= high))


def at_least(low: float) -> Expectation:
    """Expect a number of `low` or more.

    Raises:
        ConfigError: `low` is no number.
    """
    if not _is_number(low):
        message = f"at_least({low!r}) takes a number."
        raise ConfigError(message)
    return Expectation(f"{low} or more", lambda value, _: bool(_number(value) >= low))


def within(fraction: float, *, of_last: int = 5) -> Expectation:
    """Expect a number that is off the median of the last values by no more than a fraction: 0.2 is a fifth.

    `of_last` says how many former values count; as long as there is none, any number will do.

    Raises:
        ConfigError: a fraction that is no number from 0 on, or not a whole number of values from 1 on.
    """
    is_fraction = _is_number(fraction) and 0 <= fraction <= sys.float_info.max
    if not is_fraction or not _is_count(of_last):
        message = f"within({fraction!r}, of_last={of_last!r}) takes a fraction from 0 on, and 1 value or more."
        raise ConfigError(message)

    def holds(value: Any, former: Sequence[float]) -> bool:
        number = _number(value)
        if not former:
            return True
        try:
            return _is_near(number, former, fraction)
        except OverflowError:  # whole numbers that no float holds
            from fractions import Fraction

            return _is_near(Fraction(number), [Fraction(known) for known in former], Fraction(fraction))

    return Expectation(f"within {fraction:.0%} of the median of the last {of_last}", holds, of_last)


def _is_near(number: Any, former: Sequence[Any], fraction: Any) -> bool:
    from statistics import median  # here, as it loads much that `import superluigi` need not

    middle = median(former)
    return bool(abs(number - middle) <= abs(middle) * fraction)


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and value == value  # noqa: PLR0124  (NaN is not)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _number(value: Any) -> Any:
    if not _is_number(value):
        message = f"a number was expected, and not a {type(value).__name__}"
        raise TypeError(message)
    return value


def check(task: luigi.Task, record: Metadata) -> None:
    """See that what a run put into its metadata is as its class expects (`expect`). Nothing is published yet.

    Raises:
        ExpectationError: a value is not, or is not there, or a function of the user fails over it; each is named, with
            the former values.
        ConfigError: `expect` is no mapping of names to expectations, or one of our own stands there uncalled.
    """
    expected = getattr(type(task), "expect", None)
    if not expected:
        return
    items = expected.values() if isinstance(expected, Mapping) else [None]
    if not all(isinstance(item, Expectation) or callable(item) for item in items):
        message = (
            f"{type(task).__name__}.expect is {expected!r}, but maps keys of the metadata to within(), between(), "
            "at_least() or a function."
        )
        raise ConfigError(message)
    for name, item in expected.items():
        if any(item is function for function in (within, between, at_least)):
            message = (
                f"{type(task).__name__}.expect[{name!r}] is the function {item.__name__} itself. Call it: "
                f"{_CALLS[item.__name__]}."
            )
            raise ConfigError(message)
    problems = [
        problem
        for name, item in expected.items()
        if (problem := _broken(name, record, item if isinstance(item, Expectation) else _of_function(item), task))
    ]
    if problems:
        raise ExpectationError(type(task).__name__, problems)


_CALLS = {"within": "within(0.2)", "between": "between(1, 100)", "at_least": "at_least(1)"}


def _of_function(function: Callable[[Any], bool]) -> Expectation:
    name = getattr(function, "__name__", repr(function))
    return Expectation(f"such that {name}() says yes", lambda value, _: bool(function(value)))


def _broken(name: str, record: Metadata, expectation: Expectation, task: luigi.Task) -> str:
    if name not in record:
        return f"metadata[{name!r}] is not there, but was expected to be {expectation.text}"
    former = history(type(task), name)
    numbers = [row.value for row in former if isinstance(row.value, int | float) and not isinstance(row.value, bool)]
    value = record[name]
    try:
        holds = expectation.holds(value, numbers[-expectation.of_last :] if expectation.of_last else numbers)
    except (TypeError, OverflowError) as error:
        return f"metadata[{name!r}] is {value!r}, which cannot be compared: {error}"
    except Exception as error:  # noqa: BLE001  (the user's function may fail in whatever way)
        told = f"{type(error).__name__}: {error}"
        return f"metadata[{name!r}] is {value!r}, but was expected to be {expectation.text}, which raised {told}"
    if holds:
        return ""
    told = f"; it was {', '.join(str(row.value) for row in list(former)[-_SHOWN:])}" if former.rows else ""
    return f"metadata[{name!r}] is {value!r}, but was expected to be {expectation.text}{told}"


# History


@dataclass(frozen=True, slots=True)
class Row:
    """One former value: when its run ended (UTC, ISO 8601), the task's parameters, and where its output was."""

    time: str
    value: Any
    params: Mapping[str, str]
    path: str


@dataclass(frozen=True, slots=True)
class History:
    """The values of former runs of a class, oldest first. Iterate over the rows, or print them."""

    name: str
    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        """Give a table, one value a line."""
        cells = [(row.time[:19].replace("T", " "), str(row.value), _joined(row.params)) for row in self.rows]
        lines = [("time (UTC)", self.name, "parameters"), *cells]
        time, value = (max(len(line[column]) for line in lines) for column in range(2))
        return "\n".join(f"{line[0]:<{time}}  {line[1]:>{value}}  {line[2]}".rstrip() for line in lines)

    def __repr__(self) -> str:
        """Give the table: it is asked for to be read."""
        return str(self)

    def to_pandas(self) -> Any:
        """Give a DataFrame with the columns time, the name of the value, params and path.

        A value that is itself named like one of these stands in the column value.
        """
        import pandas as pd

        rows = [(row.time, row.value, dict(row.params), row.path) for row in self.rows]
        name = "value" if self.name in ("time", "params", "path") else self.name
        frame = pd.DataFrame(rows, columns=["time", name, "params", "path"])
        return frame.assign(time=pd.to_datetime(frame["time"], format="ISO8601", utc=True))


def _joined(params: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items())


def history(task_cls: type[AnyTask], name: str) -> History:
    """Give the values that former runs of a class put into `metadata[name]`, oldest first.

    Those of this machine, of outputs that were published, also if the output was replaced or removed since; up to 4 MiB
    of a class. One file is read. Also those of fields of the record, such as `duration`, of which the class expects
    something.

    Raises:
        TaskTypeError: something else than a class of tasks and the name of a value is given.
    """
    asked = _check_asked(task_cls, name)
    rows = []
    nothing = (FileNotFoundError, NotADirectoryError)
    with contextlib.suppress(*nothing), open(_file_of(asked), encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # torn by a kill
                entry = json.loads(line)
                if name in entry["values"]:
                    rows.append(Row(entry["time"], entry["values"][name], entry["params"], entry["path"]))
    return History(name, tuple(rows))


def _check_asked(task_cls: object, name: object) -> type[luigi.Task]:
    if not (isinstance(task_cls, type) and issubclass(task_cls, luigi.Task)):
        told = f"the task {task_cls}" if isinstance(task_cls, luigi.Task) else f"{task_cls!r}"
        way_out = f"its class, {type(task_cls).__name__}" if isinstance(task_cls, luigi.Task) else "a class of tasks"
        message = f"history() was given {told}: give {way_out}."
        raise TaskTypeError(message)
    if not isinstance(name, str):
        message = f"history() was given the name {name!r}, a {type(name).__name__}: give the key in metadata as text."
        raise TaskTypeError(message)
    return task_cls


def remember(task: luigi.Task, record: Metadata, names: Iterable[str], path: str) -> None:
    """Add what a run put into its metadata under these names to the history of its class: numbers, and short text.

    And what its class expects something of, which may be a field of the record.
    What cannot be written is no error: the output is published.
    """
    expected = getattr(type(task), "expect", None) or ()
    values = {name: record[name] for name in map(str, (*names, *expected)) if _is_short(record.get(name))}
    if not values:
        return
    file = _file_of(type(task))
    entry = {"time": record["end_time"], "values": values, "params": record["params"], "path": path}
    line = f"{json.dumps(entry, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError), processes.lock(str(file), family="history"):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
        _shorten(file, line)


def _is_short(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _MAX_TEXT)


def _shorten(file: Path, last: bytes) -> None:
    """Keep the later half of a history that has grown long, or its last line; seldom, as a half has to fill first."""
    size_bytes = file.stat().st_size
    if size_bytes <= _MAX_BYTES:
        return
    with open(file, "rb") as lines:
        lines.seek(size_bytes // 2)
        lines.readline()
        kept = lines.read() or last
    workplace.keep(file, kept, mode=0o600)


def key_of(task_cls: type[luigi.Task]) -> str:
    """Give the name of a class's history: the same for a program and for who imports it, another one in each project.

    A module without a package bears the folder of its file, and a notebook the working directory.
    """
    if task_cls in _told:
        return _told[task_cls]
    origin = origin_of(task_cls.__module__)
    place = f"{origin.folder}/" if origin.is_flat and origin.folder else ""
    return f"{place}{origin.name}.{task_cls.__qualname__}"


def tell_key(task_cls: type[luigi.Task], key: str) -> None:
    """Take the key of another process for a class that has travelled here, where its file may be unknown."""
    _told[task_cls] = key


def _file_of(task_cls: type[luigi.Task]) -> Path:
    key = key_of(task_cls)
    readable = re.sub(r"[^\w.-]", "_", key.rpartition("/")[2])[-_MAX_FILE_NAME:]
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return config.data_dir() / "history" / f"{readable}-{digest}.jsonl"
