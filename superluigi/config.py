"""The settings of Super Luigi, and Luigi's configuration held for the time of one call.

A setting is looked for in this order: the `config` or `config_file` of the call, the environment
variable `SUPERLUIGI_<KEY>`, the section `[superluigi]` of Luigi's configuration, the default. Nothing is
read at import, and this is the one place where the environment of Super Luigi is read.
"""

from __future__ import annotations

import contextlib
import difflib
import enum
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from configparser import ConfigParser, Interpolation
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import luigi
import luigi.configuration
from luigi.task_register import Register

from superluigi.errors import ConfigError
from superluigi.forks import open_in_forks

SECTION = "superluigi"

_of_this_call: ContextVar[Mapping[str, Mapping[str, str]] | None] = ContextVar("superluigi_config", default=None)

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _text(key: str, default: str) -> str:
    found, _ = origin(key)
    return default if found is None else found


def origin(key: str) -> tuple[str | None, str]:
    """Give the text of a setting and where it comes from; None, and `the default`, if nobody has set it."""
    explicit = of_this_call().get(SECTION, {}).get(key)
    if explicit is not None:
        return explicit, "this call"
    from_environment = os.environ.get(f"SUPERLUIGI_{key.upper()}")
    if from_environment is not None:
        return from_environment, f"SUPERLUIGI_{key.upper()}"
    configured = luigi.configuration.get_config().get(SECTION, key, None)
    return (None, "the default") if configured is None else (str(configured), "Luigi's configuration")


def data_dir() -> Path:
    """Where local copies, private inputs and locks are kept (`local_data_dir`, default `~/.superluigi/data`)."""
    return Path(_text("local_data_dir", "") or "~/.superluigi/data").expanduser().absolute()


def scheduler_url() -> str:
    """Where the central scheduler is (`scheduler_url`, default: Luigi's own setting in `[core]`)."""
    return _text("scheduler_url", "")


def is_durable() -> bool:
    """Whether files are flushed to the disk before they are published (`durable`, default false)."""
    return _boolean("durable")


def is_linking() -> bool:
    """Whether inputs are handed to `run` as links to the source instead of copies (`input_mode`, default copy).

    A run that changes a linked input changes the source, or the cache; for huge inputs that are only read.
    """
    return _choice("input_mode", "copy", ("copy", "link")) == "link"


def cache_max_bytes() -> int:
    """How much the local copies of remote objects may take (`cache_max_bytes`, default 50 GiB)."""
    return _whole_number("cache_max_bytes", 50 << 30)


def cache_min_free_bytes() -> int:
    """How much of the disk the local copies leave free (`cache_min_free_bytes`, default 1 GiB)."""
    return _whole_number("cache_min_free_bytes", 1 << 30)


def max_concurrency(default: int = 16) -> int:
    """How many requests are made to S3 at a time (`max_concurrency`, default 16, and more where they cost less)."""
    return max(1, _whole_number("max_concurrency", default))


def is_single_flight() -> bool:
    """Whether runs that start the same task make it once, one of them at a time (`single_flight`, default false)."""
    return _boolean("single_flight")


def reruns_stale() -> bool:
    """Whether tasks that are out of date by their records are made again (`rerun_stale`, default false)."""
    return _boolean("rerun_stale")


def progress() -> bool | None:
    """Whether runs show bars (`progress`, default auto): None is on a terminal and in a notebook."""
    if _text("progress", "auto").strip().lower() == "auto":
        return None
    return _boolean("progress", other="auto, ")


def lease_s() -> int:
    """How many seconds the lease of a task in S3 holds without being renewed (`lease_s`, default 60, at least 1)."""
    return max(1, _whole_number("lease_s", 60))


def logs_max_bytes() -> int:
    """How much the logs of the tasks of all runs may take (`logs_max_bytes`, default 100 MiB)."""
    return _whole_number("logs_max_bytes", 100 << 20)


def readers() -> dict[str, Callable[[], Any]]:
    """Give by the key of every setting the function that reads it, which raises ConfigError if it cannot be used."""
    return {
        "local_data_dir": data_dir,
        "cache_max_bytes": cache_max_bytes,
        "cache_min_free_bytes": cache_min_free_bytes,
        "input_mode": is_linking,
        "max_concurrency": max_concurrency,
        "scheduler_url": scheduler_url,
        "rerun_stale": reruns_stale,
        "progress": progress,
        "single_flight": is_single_flight,
        "lease_s": lease_s,
        "durable": is_durable,
        "logs_max_bytes": logs_max_bytes,
    }


def check() -> None:
    """Read every setting once, so that one that cannot be used is told before a run begins, not in the midst of it.

    Raises:
        ConfigError: one cannot be used.
    """
    for read in readers().values():
        read()


def _choice(key: str, default: str, choices: tuple[str, ...]) -> str:
    text = _text(key, default).strip().lower()
    if text not in choices:
        message = f"[{SECTION}] {key} is {text!r}, but takes {' or '.join(choices)}. Correct it in the configuration."
        raise ConfigError(message)
    return text


def _whole_number(key: str, default: int) -> int:
    text = _text(key, str(default))
    if not text.strip().isdecimal():
        message = f"[{SECTION}] {key} is {text!r}, but takes a whole number from 0 on. Correct it in the configuration."
        raise ConfigError(message)
    return int(text)


def _boolean(key: str, *, other: str = "") -> bool:
    text = _text(key, "false")
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        message = f"[{SECTION}] {key} is {text!r}, but takes {other}true or false. Correct it in the configuration."
        raise ConfigError(message) from None


def of_this_call() -> Mapping[str, Mapping[str, str]]:
    """Give the values that `applied` holds now, for a process that is not forked from this one."""
    return _of_this_call.get() or {}


@contextlib.contextmanager
def applied(
    config: Mapping[str, Mapping[str, Any]] | None,
    config_file: str | Path | None,
    *,
    runs_in_pool: bool = False,
    takes_any_value: bool = False,
) -> Iterator[None]:
    """Hold `config_file`, and `config` over it, in Luigi's configuration; on exit all is as before.

    With `runs_in_pool` the block waits for tasks of a pool, which may be those that wait for the settings of the task
    that the block is part of, see `shared`: that task has its turn again after them. With `takes_any_value` a setting
    of ours that has a value it does not take is an error only where it is read.

    Luigi's configuration belongs to the process, so two calls in two threads see each other's values: the value of
    the call that came last counts. Once both have ended, in whatever order, all is as before.

    Raises:
        ConfigError: the file is not there or cannot be read, or a section is not a mapping of simple values, or there
            is no such setting of Super Luigi's own, or it does not take the value.
    """
    values = _from_file(Path(config_file)) if config_file is not None else {}
    given = _checked(config or {})
    _check_keys(given.get(SECTION, {}), "config")
    for section, options in given.items():
        values[section] = {**values.get(section, {}), **options}
    outer = of_this_call()
    held = {section: {**outer.get(section, {}), **values.get(section, {})} for section in (*outer, *values)}
    with _held(held), _in_luigi(held), _lent() if runs_in_pool else contextlib.nullcontext():
        for key, read in readers().items():
            if key in values.get(SECTION, {}) and not takes_any_value:
                read()  # says now, and not when a task needs it, what cannot be used
        yield


@contextlib.contextmanager
def shared(settings: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Hold the settings of a call in a process that runs tasks of several threads, from the first task to the last.

    Tasks of a call with other settings wait: Luigi's configuration belongs to the process. They have their turn when
    the tasks before them have ended, or themselves wait for tasks of a pool.
    """
    turn = _Turn(settings)
    with _held(settings), _as_turn_of_this_task(turn):
        turn.begin()
        try:
            yield
        finally:
            turn.end()


def drop_inherited() -> None:
    """Let go, in a process of a pool, of what calls held at its fork: it outlives them, and runs others' tasks."""
    with _changed:
        if _overlay.pid != os.getpid():
            _overlay.pid = os.getpid()
            _overlay.clear()
            _turns.clear()


@contextlib.contextmanager
def _held(settings: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    token = _of_this_call.set(settings)
    try:
        yield
    finally:
        _of_this_call.reset(token)


class _Turn:
    """The turn of a task of a pool to have its settings in Luigi's configuration, with tasks of the same settings."""

    def __init__(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        self._layer = dict(settings)  # one that nobody else holds: two tasks may hold the same values

    def begin(self) -> None:
        """Wait until no task of other settings has its turn; those that have it wait for nobody's."""
        with _changed:
            _changed.wait_for(lambda: all(other._layer == self._layer for other in _turns))  # noqa: SLF001
            _turns.append(self)
            _overlay.add(self._layer)

    def end(self) -> bool:
        """Let the next have theirs; say whether this one was not over already."""
        with _changed:
            if self not in _turns:
                return False
            _turns.remove(self)
            _overlay.remove(self._layer)
            _changed.notify_all()
            return True


@contextlib.contextmanager
def _as_turn_of_this_task(turn: _Turn | None) -> Iterator[None]:
    token = _turn_of_this_task.set(turn)
    try:
        yield
    finally:
        _turn_of_this_task.reset(token)


@contextlib.contextmanager
def _lent() -> Iterator[None]:
    """Let others have the turn of this task while the block runs, if it is a task of a pool."""
    turn = _turn_of_this_task.get()
    if turn is None or not turn.end():  # another thread of the task may have lent it
        yield
        return
    try:
        with _as_turn_of_this_task(None):
            yield
    finally:
        turn.begin()


@contextlib.contextmanager
def _in_luigi(values: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Hold values in Luigi's configuration, over those that others hold there."""
    layer = dict(values)
    with _changed:
        _overlay.add(layer)
    try:
        yield
    finally:
        with _changed:
            _overlay.remove(layer)


_Layers = tuple[Mapping[str, Mapping[str, str]], ...]  # the last counts


def _given(layers: _Layers, section: str, option: str) -> str | None:
    values = (layer[section].get(option) for layer in reversed(layers) if section in layer)
    return next((value for value in values if value is not None), None)


class _Overlay(Interpolation):
    """What the calls of this process hold in Luigi's configuration, and what was there before.

    It is the parser's interpolation meanwhile, as that is where values can be given as they stand: Luigi has no escape
    for `${...}`.
    """

    def __init__(self) -> None:
        self._layers: _Layers = ()
        self._former: dict[tuple[str, str], Any] = {}
        self._created: set[str] = set()
        self._is_writing = False
        self.pid = os.getpid()

    def clear(self) -> None:
        """Let all be as it was before."""
        for layer in self._layers:
            self.remove(layer)

    def add(self, layer: Mapping[str, Mapping[str, str]]) -> None:
        """Hold the values of a layer over those of all others."""
        if not self._layers:
            self._parser: Any = luigi.configuration.get_config()
            self._outer: Interpolation = self._parser._interpolation  # noqa: SLF001  (there is no public way)
            self._parser._interpolation = self  # noqa: SLF001
        self._layers = (*self._layers, layer)
        self._write(layer, self._layers)

    def remove(self, layer: Mapping[str, Mapping[str, str]]) -> None:
        """Let what a layer holds be as it was before, or as another layer holds it."""
        remaining = tuple(other for other in self._layers if other is not layer)
        self._write(layer, remaining)
        self._layers = remaining  # not before: what is given as it stands must not be read as what was there
        if not remaining:
            self._parser._interpolation = self._outer  # noqa: SLF001

    def _write(self, layer: Mapping[str, Mapping[str, str]], layers: _Layers) -> None:
        """Let the parser have what `layers` hold of the options in one of them, or else what was there before."""
        self._is_writing = True
        for section, options in layer.items():
            is_held = any(section in other for other in layers)
            if is_held and not _has_section(self._parser, section):
                self._created.add(section)
            for option in options:
                given = _given(layers, section, option)
                if given is not None:
                    self._former.setdefault((section, option), _raw(self._parser, section, option))
                    self._parser.set(section, option, given)
                elif (section, option) in self._former:
                    _restore(self._parser, section, option, self._former.pop((section, option)))
            if section in self._created and not is_held:
                self._created.remove(section)
                _remove_section(self._parser, section)
        self._is_writing = False

    def before_get(self, parser: Any, section: Any, option: str, value: str, defaults: Any) -> str:
        given = _given(self._layers, section, option)
        return self._outer.before_get(parser, section, option, value, defaults) if given is None else given

    def before_set(self, parser: Any, section: Any, option: str, value: str) -> str:
        # What stood in a file need not be what may be set: a lone percent sign.
        return value if self._is_writing else self._outer.before_set(parser, section, option, value)


_changed = open_in_forks(threading.Condition())  # guards what follows
_overlay = _Overlay()
_turns: list[_Turn] = []  # those under way, all of the same settings
_turn_of_this_task: ContextVar[_Turn | None] = ContextVar("superluigi_turn", default=None)


def _from_file(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        message = f"The configuration file {str(path)!r} does not exist. Give the path of an .ini, .cfg or .toml file."
        raise ConfigError(message)
    try:
        if path.suffix == ".toml":
            values = _checked(_toml(path.read_text(encoding="utf-8")))
            _check_keys(values.get(SECTION, {}), str(path))
            return values
        reader = ConfigParser(interpolation=luigi.configuration.LuigiConfigParser._DEFAULT_INTERPOLATION)  # noqa: SLF001
        reader.optionxform = str  # type: ignore[assignment,method-assign]
        reader.read_string(path.read_text(encoding="utf-8"), source=str(path))
        values = _checked({section: dict(reader.items(section)) for section in reader.sections()})
        of_all = {name.replace("-", "_") for name in reader.defaults()}  # [DEFAULT] is there for every section
        _check_keys([name for name in values.get(SECTION, {}) if name not in of_all], str(path))
    except ConfigError:
        raise
    except Exception as error:
        message = f"The configuration file {str(path)!r} cannot be read: {error}. Correct the file."
        raise ConfigError(message) from error
    return values


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    parsed: dict[str, Any] = toml.loads(text)
    return parsed


def _checked(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    if not isinstance(config, Mapping):
        message = f"config is {config!r}, but must map sections to options: {{'MyTask': {{'version': 4}}}}."
        raise ConfigError(message)
    checked: dict[str, dict[str, str]] = {}
    for section, options in config.items():
        if section == "DEFAULT":
            message = "config['DEFAULT'] cannot be set for one call. Name the sections themselves."
            raise ConfigError(message)
        if not isinstance(options, Mapping):
            expected = f"must map options to values: {{{section!r}: {{'version': 4}}}}"
            message = f"config[{section!r}] is {options!r}, but {expected}."
            raise ConfigError(message)
        checked[str(section)] = {
            name: _by_parameter(section, name, value) or _as_text(value, f"config[{section!r}][{name!r}]")
            for name, value in ((str(option).replace("-", "_"), value) for option, value in options.items())
        }
    return checked


def _check_keys(names: Iterable[str], where: str) -> None:
    """See that all settings of ours that a call is given are there; what Luigi's own files hold is left alone."""
    known = list(readers())
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            way_out = f"Did you mean {nearest[0]}?" if nearest else f"There are: {', '.join(known)}."
            message = f"{where}: there is no setting {name!r} in [{SECTION}]. {way_out}"
            raise ConfigError(message)


def _by_parameter(section: str, option: str, value: Any) -> str | None:
    """Write a value as the parameter that will read it does, if it has a way of its own that takes this value."""
    if value is None or isinstance(value, str):
        return None
    with contextlib.suppress(Exception):  # no such task, or a value of another type than the parameter's
        parameter = dict(Register.get_task_cls(section).get_params())[option]
        if type(parameter).serialize is not luigi.Parameter.serialize:
            return str(parameter.serialize(parameter.normalize(value)))
    return None


def _as_text(value: Any, where: str) -> str:
    """Write a value the way that most of Luigi's parameters parse it."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, timedelta):
        return str(value.total_seconds())
    if isinstance(value, Mapping | list | tuple):
        try:
            return json.dumps(value)
        except (TypeError, ValueError) as error:
            message = (
                f"{where} is {value!r}, which cannot be written as JSON: {error}. Give text, numbers and the like."
            )
            raise ConfigError(message) from error
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, bool | int | float | Path):
        return str(value)
    message = f"{where} is {value!r}. Give a string, number, boolean, date, path, enum, list or dict."
    raise ConfigError(message)


def _has_section(parser: Any, section: str) -> bool:
    return section in parser.data if _is_toml(parser) else bool(parser.has_section(section))


def _is_toml(parser: Any) -> bool:
    """Say whether this is Luigi's other parser, which is a ConfigParser by name only."""
    return hasattr(parser, "data")


def _raw(parser: Any, section: str, option: str) -> Any:
    """Give the section's own value before interpolation, None where there is none."""
    sections = parser.data if _is_toml(parser) else parser._sections  # noqa: SLF001  (`get` falls back to [DEFAULT])
    return sections.get(section, {}).get(option)


def _restore(parser: Any, section: str, option: str, value: Any) -> None:
    if value is not None:
        parser.set(section, option, value)
    elif _has_section(parser, section):
        if _is_toml(parser):
            parser.data[section].pop(option, None)
        else:
            parser.remove_option(section, option)


def _remove_section(parser: Any, section: str) -> None:
    if _is_toml(parser):
        parser.data.pop(section, None)
    else:
        parser.remove_section(section)
