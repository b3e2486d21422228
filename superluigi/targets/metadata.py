"""The JSON form of metadata: what is converted, and what is refused with its key named.

The invariant: what this module lets through is JSON in the strict sense (RFC 8259: no NaN, text keys), and
reads back as the same value.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from superluigi.errors import MetadataError

Metadata = dict[str, Any]

RECORD_SUFFIX = ".metadata.json"  # of the name of a record; of one that lies in the folder itself it is the name
# Fields that only some records have.
REMOVED = "removed_time"  # when the data were removed that the record outlives
SUPERSEDED = "superseded"  # the record that this one replaces, as long as the former data may still stand there
ACCEPTED = "accepted"  # today's code and version, taken for those that made the output
IN_MEMORY = "in_memory"  # by task id, what the values that a task has read were made from

# The fields of `provenance.build` and of what is added to records later; all others are the user's own metadata.
RECORD_FIELDS = frozenset(
    [
        *("schema", "task_family", "task_module", "task_id", "task_hash", "version", "code", "params", "input"),
        *("dynamic_input", "output", "start_time", "end_time", "duration", "run_id", "log_path"),
        *("host", "user", "python", "packages", "git_commit", "git_dirty"),
        *(REMOVED, SUPERSEDED, ACCEPTED, IN_MEMORY),
    ]
)

_MAX_DEPTH = 100
_MAX_SHOWN = 60  # characters
_MAX_INT_BITS = 13_000  # Python reads and writes no more than 4,300 digits (sys.set_int_max_str_digits)
_line = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # with `indent` it is five times as slow
_WAY_OUT = "Convert it to numbers, text, lists or dicts, or leave it out."


def now() -> dt.datetime:
    """Give the present time, for records: the one place where it comes in."""
    return dt.datetime.now(dt.timezone.utc)


def removed(record: Metadata) -> bytes:
    """Give a record as it stays when its data are removed."""
    return encode({**record, REMOVED: now().isoformat()})


def kept_in(stored: Metadata) -> Iterator[Metadata]:
    """Give the record that lies somewhere, then the one that it replaces if it still holds that; each by itself."""
    for record in (stored, stored.get(SUPERSEDED)):
        if isinstance(record, dict):
            yield {name: value for name, value in record.items() if name != SUPERSEDED}


def output_in(record: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Give what a record says of its output; nothing if there is no record, or it says nothing that can be read."""
    output = None if record is None else record.get("output")
    return output if isinstance(output, dict) else {}


def duration_s_in(record: Mapping[str, Any] | None) -> float | None:
    """Give what a record says of how long the task ran; None as for `output_in`."""
    duration = None if record is None else record.get("duration")
    return float(duration) if isinstance(duration, int | float) else None


def encode(metadata: Mapping[str, Any]) -> bytes:
    """Give metadata that `plain` made as UTF-8 text that people can read, one line a field."""
    lines = [f"  {_line(name)}: {_line(value)}" for name, value in metadata.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    return text.encode("utf-8", "backslashreplace")


def decode(data: bytes) -> Metadata | None:
    """Give the metadata that `encode` wrote; None if the bytes are damaged or somebody else's.

    So is what `encode` would refuse, such as NaN: a record is written once more when it is superseded or accepted.
    """
    try:
        metadata = loads(data)
    except (ValueError, RecursionError):
        return None
    return metadata if isinstance(metadata, dict) else None


def loads(data: bytes) -> Any:
    """Give what stands in JSON, in the strict sense. Raises ValueError, or RecursionError if it is nested too deep."""
    return _decode(data.decode(json.detect_encoding(data), "surrogatepass"))


def _refuse(constant: str) -> NoReturn:
    message = f"{constant} is no JSON"
    raise ValueError(message)


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


_decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode


def plain(metadata: Mapping[Any, Any]) -> Metadata:
    """Give a copy that holds nothing but JSON's own types.

    Converted: NumPy and pandas scalars, paths, dates and times (ISO 8601), durations (seconds), enums (their
    value), sets (sorted), tuples, dataclasses, decimals and UUIDs (text).

    Raises:
        MetadataError: any other value, NaN or infinity, an integer of thousands of digits, two keys that become the
            same text, a circle, or more than 100 levels.
    """
    return _plain_mapping(metadata, "", (id(metadata),))


def _plain(value: Any, key: str, outer: tuple[int, ...]) -> Any:  # noqa: C901, PLR0911, PLR0912  (a table of types)
    if isinstance(value, enum.Enum):
        return _plain(value.value, key, outer)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            problem = "is an integer of thousands of digits, which cannot be read back"
            raise MetadataError(key, problem, "Write it as text.")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _is_missing(value, key)
        return float(value)
    if isinstance(value, Mapping | list | tuple | set | frozenset) or _is_dataclass(value):
        if id(value) in outer:
            raise MetadataError(key, "holds itself", "Leave the circle out.")
        if len(outer) >= _MAX_DEPTH:
            raise MetadataError(key, f"is nested more than {_MAX_DEPTH} levels deep", "Flatten it.")
        return _plain_container(value, key, (*outer, id(value)))
    if type(value).__name__ in ("NaTType", "NAType"):
        raise _is_missing(value, key)
    for kind, convert in _CONVERSIONS.items():
        if isinstance(value, kind):
            return convert(value)
    is_scalar = getattr(value, "ndim", None) == 0 and hasattr(value, "item")  # of NumPy, without importing it
    if is_scalar and not isinstance(value, bytes):
        return _plain_scalar(value[()], key, outer)
    raise _is_unknown(value, key)


_CONVERSIONS: dict[type | tuple[type, ...], Callable[[Any], Any]] = {
    dt.timedelta: lambda value: value.total_seconds(),
    (dt.date, dt.time): lambda value: value.isoformat(),
    os.PathLike: os.fsdecode,
    (decimal.Decimal, uuid.UUID): str,
}


def _plain_scalar(value: Any, key: str, outer: tuple[int, ...]) -> Any:
    """Convert a NumPy scalar; its `item()` would make integers of nanoseconds, and None of a missing time."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind in ("M", "m") and str(value) == "NaT":
        raise _is_missing(value, key)
    if kind == "M":
        return str(value)
    if kind == "m":
        try:
            return float(value / type(value)(1, "s"))
        except TypeError:  # months and years have no length
            raise _is_unknown(value, key) from None
    item = value.item()
    if type(item) is type(value):
        raise _is_unknown(value, key)
    return _plain(item, key, outer)


def _is_missing(value: Any, key: str) -> MetadataError:
    return MetadataError(key, f"is {value!r}, which JSON cannot hold", "Write None, or leave it out.")


def _is_unknown(value: Any, key: str) -> MetadataError:
    return MetadataError(key, f"is a {type(value).__name__} ({_shown(value)}), which JSON cannot hold", _WAY_OUT)


def _plain_container(value: Any, key: str, outer: tuple[int, ...]) -> Any:
    if isinstance(value, Mapping):
        return _plain_mapping(value, key, outer)
    if _is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _plain_mapping(fields, key, outer)
    items = [_plain(item, f"{key}[{position}]", outer) for position, item in enumerate(value)]
    return sorted(items, key=json.dumps) if isinstance(value, set | frozenset) else items


def _plain_mapping(mapping: Mapping[Any, Any], key: str, outer: tuple[int, ...]) -> Metadata:
    result: Metadata = {}
    for name, value in mapping.items():
        text = _plain(name, f"{key}.{name}" if key else str(name), outer)
        if not isinstance(text, str | int | float) and text is not None:
            raise MetadataError(f"{key}.{name}", "is no key that JSON could hold", "Use text as keys.")
        text = str(text)
        inner = f"{key}.{text}" if key else text
        if text in result:
            raise MetadataError(inner, "stands twice, once as text and once as another type", "Use text as keys.")
        result[text] = _plain(value, inner, outer)
    return result


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
