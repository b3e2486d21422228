"""The settings of Super Luigi, and Luigi's configuration held for the time of one call.

A setting is looked for in this order: the `config` or `config_file` of the call, the environment
variable `SUPERLUIGI_<KEY>`, the section `[superluigi]` of Luigi's configuration, the default. Nothing is
read at import, and this is the one place where the environment of Super Luigi is read.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from configparser import ConfigParser, Interpolation
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import luigi
import luigi.configuration
from luigi.task_register import Register

from superluigi.errors import ConfigError

SECTION = "superluigi"

_of_this_call: ContextVar[Mapping[str, Mapping[str, str]] | None] = ContextVar("superluigi_config", default=None)

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _text(key: str, default: str) -> str:
    explicit = of_this_call().get(SECTION, {}).get(key)
    if explicit is not None:
        return explicit
    from_environment = os.environ.get(f"SUPERLUIGI_{key.upper()}")
    if from_environment is not None:
        return from_environment
    return str(luigi.configuration.get_config().get(SECTION, key, default))


def data_dir() -> Path:
    """Where local copies, private inputs and locks are kept (`local_data_dir`, default `~/.superluigi/data`)."""
    return Path(_text("local_data_dir", "") or "~/.superluigi/data").expanduser().absolute()


def scheduler_url() -> str:
    """Where the central scheduler is (`scheduler_url`, default: Luigi's own setting in `[core]`)."""
    return _text("scheduler_url", "")


def is_durable() -> bool:
    """Whether files are flushed to the disk before they are published (`durable`, default false)."""
    return _boolean("durable", default=False)


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
    return _boolean("single_flight", default=False)


def lease_s() -> int:
    """How many seconds the lease of a task in S3 holds without being renewed (`lease_s`, default 60, at least 1)."""
    return max(1, _whole_number("lease_s", 60))


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


def _boolean(key: str, *, default: bool) -> bool:
    text = _text(key, str(default))
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        message = f"[{SECTION}] {key} is {text!r}, but takes true or false. Correct it in the configuration."
        raise ConfigError(message) from None


def of_this_call() -> Mapping[str, Mapping[str, str]]:
    """Give the values that `applied` holds now, for a process that is not forked from this one."""
    return _of_this_call.get() or {}


@contextlib.contextmanager
def applied(config: Mapping[str, Mapping[str, Any]] | None, config_file: str | Path | None) -> Iterator[None]:
    """Hold `config_file`, and `config` over it, in Luigi's configuration; on exit all is as before.

    Luigi's configuration belongs to the process, so two calls in two threads see each other's values.

    Raises:
        ConfigError: the file is not there or cannot be read, or a section is not a mapping of simple values.
    """
    values = _from_file(Path(config_file)) if config_file is not None else {}
    for section, options in _checked(config or {}).items():
        values[section] = {**values.get(section, {}), **options}
    outer = of_this_call()
    held = {section: {**outer.get(section, {}), **values.get(section, {})} for section in (*outer, *values)}
    token = _of_this_call.set(held)
    try:
        with _in_luigi(values):
            yield
    finally:
        _of_this_call.reset(token)


@contextlib.contextmanager
def _in_luigi(values: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Hold values in Luigi's configuration, which belongs to the process."""
    parser = luigi.configuration.get_config()
    undo: list[tuple[str, str, Any]] = []
    created: list[str] = []
    interpolation = parser._interpolation  # noqa: SLF001  (there is no public way)
    parser._interpolation = _Verbatim(interpolation, values)  # noqa: SLF001
    try:
        for section, options in values.items():
            if not _has_section(parser, section):
                created.append(section)
            for option, value in options.items():
                undo.append((section, option, _raw(parser, section, option)))
                parser.set(section, option, value if _is_toml(parser) else value.replace("%", "%%"))
        yield
    finally:
        for section, option, value in reversed(undo):
            _restore(parser, section, option, value)
        for section in created:
            _remove_section(parser, section)
        parser._interpolation = interpolation  # noqa: SLF001


class _Shared:
    """The settings that a process holds for tasks of a pool: of one call at a time, for as many of its tasks as run."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.settings: Mapping[str, Mapping[str, str]] = {}
        self.count = 0
        self.held = contextlib.ExitStack()


_shared = _Shared()


@contextlib.contextmanager
def shared(settings: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Hold the settings of a call in a process that runs tasks of several threads, from the first task to the last.

    Tasks of a call with other settings wait: Luigi's configuration belongs to the process.
    """
    with _shared.changed:
        _shared.changed.wait_for(lambda: not _shared.count or _shared.settings == settings)
        if not _shared.count:
            _shared.settings = settings
            _shared.held.enter_context(_in_luigi(settings))
        _shared.count += 1
    token = _of_this_call.set(settings)
    try:
        yield
    finally:
        _of_this_call.reset(token)
        with _shared.changed:
            _shared.count -= 1
            if not _shared.count:
                _shared.held.close()
                _shared.changed.notify_all()


class _Verbatim(Interpolation):
    """Luigi's interpolation, but for the values of one call, which stand as given: Luigi has no escape for `${...}`."""

    def __init__(self, outer: Interpolation, values: Mapping[str, Mapping[str, str]]) -> None:
        self._outer = outer
        self._values = values

    def before_get(self, parser: Any, section: Any, option: str, value: str, defaults: Any) -> str:
        given = self._values.get(section, {}).get(option)
        return self._outer.before_get(parser, section, option, value, defaults) if given is None else given

    def before_set(self, parser: Any, section: Any, option: str, value: str) -> str:
        return self._outer.before_set(parser, section, option, value)


def _from_file(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        message = f"The configuration file {str(path)!r} does not exist. Give the path of an .ini, .cfg or .toml file."
        raise ConfigError(message)
    try:
        if path.suffix == ".toml":
            return _checked(_toml(path.read_text(encoding="utf-8")))
        reader = ConfigParser(interpolation=luigi.configuration.LuigiConfigParser._DEFAULT_INTERPOLATION)  # noqa: SLF001
        reader.optionxform = str  # type: ignore[assignment,method-assign]
        reader.read_string(path.read_text(encoding="utf-8"), source=str(path))
        return _checked({section: dict(reader.items(section)) for section in reader.sections()})
    except ConfigError:
        raise
    except Exception as error:
        message = f"The configuration file {str(path)!r} cannot be read: {error}. Correct the file."
        raise ConfigError(message) from error


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    parsed: dict[str, Any] = toml.loads(text)
    return parsed


def _checked(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    if not isinstance(config, dict | Mapping):
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
    """Give the value before interpolation, or None where there is none."""
    if _is_toml(parser):
        return parser.data.get(section, {}).get(option)
    return ConfigParser.get(parser, section, option, raw=True, fallback=None)


def _restore(parser: Any, section: str, option: str, value: Any) -> None:
    if _is_toml(parser):
        if value is None:
            parser.data[section].pop(option, None)
        else:
            parser.data[section][option] = value
    elif value is None:
        parser.remove_option(section, option)
    else:
        ConfigParser.set(parser, section, option, value)


def _remove_section(parser: Any, section: str) -> None:
    if _is_toml(parser):
        parser.data.pop(section, None)
    else:
        parser.remove_section(section)
