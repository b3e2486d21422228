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
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from superluigi import config
from superluigi.errors import ConfigError, ExpectationError
from superluigi.origins import origin_of
from superluigi.storage import processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import luigi

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
    """Expect a number from `low` to `high`, both allowed."""
    return Expectation(f"from {low} to {high}", lambda value, _: low <= value <= high)


def at_least(low: float) -> Expectation:
    """Expect a number of `low` or more."""
    return Expectation(f"{low} or more", lambda value, _: value >= low)


def within(fraction: float, *, of_last: int = 5) -> Expectation:
    """Expect a number that is off the median of the last values by no more than a fraction: 0.2 is a fifth.

    `of_last` says how many former values count; as long as there is none, any number will do.

    Raises:
        ConfigError: a fraction below 0, or fewer than one value.
    """
    if fraction < 0 or of_last < 1:
        message = f"within({fraction!r}, of_last={of_last!r}) takes a fraction from 0 on, and 1 value or more."
        raise ConfigError(message)

    def holds(value: Any, former: Sequence[float]) -> bool:
        if not former:
            return isinstance(value, int | float)
        from statistics import median  # here, as it loads much that `import superluigi` need not

        middle = median(former)
        return bool(abs(value - middle) <= abs(middle) * fraction)

    return Expectation(f"within {fraction:.0%} of the median of the last {of_last}", holds, of_last)


Expected: TypeAlias = Expectation | Callable[[Any], bool]


def check(task: luigi.Task, record: Metadata) -> None:
    """See that what a run put into its metadata is as its class expects (`expect`). Nothing is published yet.

    Raises:
        ExpectationError: a value is not, or is not there; each is named, with the former values.
        ConfigError: `expect` is no mapping of names to expectations.
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
    problems = [
        problem
        for name, item in expected.items()
        if (problem := _broken(name, record, item if isinstance(item, Expectation) else _of_function(item), task))
    ]
    if problems:
        raise ExpectationError(type(task).__name__, problems)


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
    except TypeError as error:
        return f"metadata[{name!r}] is {value!r}, which cannot be compared: {error}"
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
        """Give a DataFrame with the columns time, the name of the value, params and path."""
        import pandas as pd

        rows = [(row.time, row.value, dict(row.params), row.path) for row in self.rows]
        frame = pd.DataFrame(rows, columns=["time", self.name, "params", "path"])
        return frame.assign(time=pd.to_datetime(frame["time"], format="ISO8601", utc=True))


def _joined(params: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items())


def history(task_cls: type[luigi.Task], name: str) -> History:
    """Give the values that former runs of a class put into `metadata[name]`, oldest first.

    Those of this machine, of outputs that were published, also if the output was replaced or removed since; up to 4 MiB
    of a class. One file is read.
    """
    rows = []
    with contextlib.suppress(FileNotFoundError), open(_file_of(task_cls), encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # torn by a kill
                entry = json.loads(line)
                if name in entry["values"]:
                    rows.append(Row(entry["time"], entry["values"][name], entry["params"], entry["path"]))
    return History(name, tuple(rows))


def remember(task: luigi.Task, record: Metadata, names: Iterable[str], path: str) -> None:
    """Add what a run put into its metadata under these names to the history of its class: numbers, and short text.

    What cannot be written is no error: the output is published.
    """
    values = {name: record[name] for name in map(str, names) if _is_short(record.get(name))}
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
    shorter = file.with_suffix(".partial")
    shorter.write_bytes(kept)
    os.replace(shorter, file)


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
