"""Records as they are: found by the path of an output, local or in S3, read once, and checked.

Nothing here asks whether a record is that of the present data, as targets do: whoever follows lineage, or verifies
data, decides that by fingerprints. The invariant: nothing is written, and what is no record of ours, damaged or forged,
is told as such and never followed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

import luigi

from superluigi import config, dag
from superluigi.errors import (
    InvalidNameError,
    StorageError,
    SuperLuigiError,
    TargetNotFoundError,
    TaskTypeError,
)
from superluigi.provenance import SCHEMA
from superluigi.storage.addresses import is_address, parts_of, parts_of_data
from superluigi.storage.concurrency import run_all
from superluigi.storage.s3 import Bucket
from superluigi.storage.s3_errors import OF_THE_WHOLE_BUCKET
from superluigi.targets import LocalFileTarget, LocalFolderTarget, S3ObjectTarget, S3PrefixTarget, Target
from superluigi.targets.metadata import IN_MEMORY, RECORD_SUFFIX, REMOVED, SUPERSEDED, loads, output_in
from superluigi.targets.s3_store import UNFINISHED_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from superluigi.dag import Role
    from superluigi.targets.metadata import Metadata

Output: TypeAlias = "str | os.PathLike[str] | luigi.Target"

_MAX_RECORD_BYTES = 256 << 20  # a record holds its direct inputs alone; what is larger is none
_MAX_DEPTH = 120  # levels of a record: metadata are refused beyond 100
_MAX_SHOWN = 60
_MAX_NAME = 255  # characters of a part of a path: no file system takes more


class State(str, Enum):
    """What is found where an ancestor was read from."""

    RECORDED = "recorded"
    RAW = "raw"
    MISSING = "missing"
    REMOVED = "removed"
    REPLACED = "replaced"
    UNREADABLE = "unreadable"
    IN_MEMORY = "in memory"
    WITHOUT_RECORD = "without record"

    def __str__(self) -> str:
        """Give the word itself, on every Python."""
        return self.value


@dataclass(frozen=True, slots=True)
class Place:
    """Where data may be, and their record; local paths are absolute. `base` is what they are relative to, if known."""

    path: str
    record_paths: tuple[str, ...]
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is found at the first of several places where there is anything.

    `record` is that of the data which are to be there, `former` that of the data before them, if it was kept.
    `inputs` are those of `record`, as `inputs_of` gives them.
    """

    path: str
    state: State
    record_path: str | None = None
    record: Metadata | None = None
    former: Metadata | None = None
    inputs: tuple[Input, ...] = ()
    error: str | None = None
    base: str | None = None
    given: Target | None = None

    def as_target(self) -> Target:
        """Give the target: what the user has given, else one with data and record where they were found."""
        if self.given is not None:
            return self.given
        inside = os.path.join(self.path, RECORD_SUFFIX) if not is_address(self.path) else f"{self.path}{RECORD_SUFFIX}"
        is_inside = self.record_path == inside
        if is_address(self.path):
            bucket, key = parts_of(self.path)
            record_bucket, record_key = parts_of(self.record_path or f"{self.path.rstrip('/')}{RECORD_SUFFIX}")
            if not key.endswith("/"):
                return S3ObjectTarget(bucket, key, record_bucket, record_key)
            if is_inside:
                return S3PrefixTarget(bucket, key, metadata_inside_prefix=True)
            return S3PrefixTarget(bucket, key, record_bucket, record_key)
        if is_inside:
            return LocalFolderTarget(self.path, metadata_inside_folder=True)
        is_folder = os.path.isdir(self.path) or output_in(self.record).get("type") == LocalFolderTarget.__name__
        return (LocalFolderTarget if is_folder else LocalFileTarget)(self.path, self.record_path)


def find(path_or_target: Output, function: str) -> Found:
    """Give what is found of an output that a user names; `function` is named in errors.

    Raises:
        InvalidNameError: it cannot be a path or an address.
        TaskTypeError: it is something else, such as a task.
    """
    target = path_or_target if isinstance(path_or_target, Target) else None
    reader = Reader(target)
    if target is not None:
        found = reader.find((Place(absolute(str(target.path)), (absolute(str(target.metadata_path)),)),))
        return _with_present_record(replace(found, given=target))
    text = _text(path_or_target, function)
    if text.endswith(RECORD_SUFFIX):
        return _with_present_record(_found_by_record(reader, absolute(text)))
    return _with_present_record(reader.find(_places_of(text)))


def nothing_at(path: str) -> TargetNotFoundError:
    """Build the error for an output of which nothing is left."""
    message = (
        f"There are neither data nor a lineage record at {path}. Correct the path, or run the task that makes it; "
        "of data whose record has a path of its own, give the target or that path."
    )
    return TargetNotFoundError(message)


def _text(given: object, function: str) -> str:
    if isinstance(given, luigi.LocalTarget) or (isinstance(given, luigi.Target) and is_address(_path_of(given))):
        given = _path_of(given)
    if not isinstance(given, str | os.PathLike):
        message = (
            f"{function}() was given {given!r}, a {type(given).__name__}, but takes a target, a path or an s3:// "
            "address. Of a task give its output()."
        )
        raise TaskTypeError(message)
    text = os.fsdecode(os.fspath(given))
    if not isinstance(given, str) and text.replace("\\", "/").startswith("s3:/"):
        raise InvalidNameError(text, "is an s3:// address as a Path, which drops a slash", "Give the address as text.")
    if is_address(text):
        _check_address(text)
    elif not text.strip() or "\0" in text:
        raise InvalidNameError(text, "cannot be a path", "Give a path such as 'data/features.csv'.")
    return os.path.expanduser(text) if text.startswith("~") else text


def _path_of(target: luigi.Target) -> str:
    return str(dag.path_of(target) or "")


def _check_address(address: str) -> None:
    bucket, key = parts_of_data(address)
    S3ObjectTarget(bucket, key.rstrip("/"))  # knows what S3 allows


def absolute(path: str, base: str | None = None) -> str:
    """Give a local path from the root, without asking for links; an address stays as it is."""
    return path if is_address(path) else os.path.normpath(os.path.join(base or os.getcwd(), path))


def _places_of(text: str) -> tuple[Place, ...]:
    """Give where data and record may be, by the rules by which targets name their records."""
    if not is_address(text):
        path = absolute(text)
        beside, inside = str(LocalFileTarget(path).metadata_path), os.path.join(path, RECORD_SUFFIX)
        return (Place(path, (beside, inside)),)
    name = text.rstrip("/")
    as_prefix = Place(f"{name}/", (f"{name}{RECORD_SUFFIX}", f"{name}/{RECORD_SUFFIX}"))
    return (as_prefix,) if text.endswith("/") else (Place(name, (f"{name}{RECORD_SUFFIX}",)), as_prefix)


def _found_by_record(reader: Reader, record_path: str) -> Found:
    """Give what is found of an output whose record is named.

    The data are beside the record, where targets put it unless they are told otherwise and where it was moved with
    them, or at the path that stands in it.
    """
    name = record_path.removesuffix(RECORD_SUFFIX).rstrip("/")
    found = reader.find((Place(name, (record_path,)),))
    told = output_in(found.record).get("path")
    if not told:
        return found
    beside = f"{name}/" if is_address(told) and told.endswith("/") else name
    places = [absolute(told)]
    if os.path.basename(told.rstrip("/")) == os.path.basename(name) and is_address(told) == is_address(name):
        places.insert(0, beside)
    path = places[0] if len(set(places)) == 1 else next(filter(reader.has_data, places), places[0])
    return replace(found, path=path)


def _with_present_record(found: Found) -> Found:
    """Give what is found with the record that is of the present data, where two are kept since those were replaced."""
    if found.record is not None and is_address(found.path) and found.given is None and found.path[-1] != "/":
        told = output_in(found.record).get("path")
        if told == f"{found.path}/":  # the record of a prefix lies where that of an object of its name would
            found = replace(found, path=told)
    if found.former is None:
        return found
    with contextlib.suppress(SuperLuigiError):
        if found.as_target().read_metadata() == found.former:
            return replace(found, record=found.former, former=None, inputs=tuple(inputs_of(found.former)))
    return found


# Reading


class Reader:
    """Reads records, each once; safe between the threads of one call."""

    def __init__(self, target: Target | None) -> None:
        self._buckets: dict[str, Bucket] = {}
        self._refused: dict[str, StorageError] = {}
        self._read: dict[str, _Record | None] = {}
        if isinstance(target, S3ObjectTarget | S3PrefixTarget):
            store = target.store
            self._buckets = {bucket.name: bucket for bucket in (store.metadata_bucket, store.bucket)}

    def find_all(self, asked: Iterable[tuple[Place, ...]]) -> dict[tuple[Place, ...], Found]:
        """Give what is found for each; those in S3 many at a time."""
        found: dict[tuple[Place, ...], Found] = {}

        def find(places: tuple[Place, ...]) -> None:
            found[places] = self.find(places)

        remote = []
        for places in asked:
            if any(is_address(path) for place in places for path in (place.path, *place.record_paths)):
                remote.append(functools.partial(find, places))
            else:
                find(places)
        if remote:
            run_all(remote, max_concurrency=config.max_concurrency())
        return found

    def find(self, places: tuple[Place, ...]) -> Found:
        """Give what is found at the first of the places where there is anything."""
        for place in places:
            for record_path in place.record_paths:
                try:
                    read = self._record(record_path)
                    if read is None:
                        continue
                except (OSError, ValueError) as error:
                    return Found(place.path, State.UNREADABLE, record_path, error=_reason(error, record_path))
                if read.error is not None:
                    return Found(place.path, State.UNREADABLE, record_path, error=f"{record_path}: {read.error}")
                assert read.record is not None
                state = State.REMOVED if REMOVED in read.record else State.RECORDED
                return Found(
                    place.path, state, record_path, read.record, read.former, inputs=read.inputs, base=place.base
                )
            try:
                if self._has_data(place.path):
                    return Found(place.path, State.RAW, base=place.base)
            except (OSError, ValueError) as error:
                return Found(place.path, State.UNREADABLE, error=_reason(error, place.path))
        return Found(places[0].path, State.MISSING)

    def _record(self, path: str) -> _Record | None:
        if path not in self._read:
            data = self._remote_bytes(path) if is_address(path) else _local_bytes(path)
            self._read[path] = None if data is None else _parsed(data)
        return self._read[path]

    def _remote_bytes(self, address: str) -> bytes | None:
        bucket, key = parts_of(address)
        with self._asking(bucket) as asked:
            if not key.endswith(RECORD_SUFFIX):  # whoever forges a record may name any object
                facts = asked.head(key)
                _check_size(0 if facts is None else facts.size_bytes)
            return asked.get_bytes(key)

    def has_data(self, path: str) -> bool:
        """Say whether there are data, as far as that can be told."""
        try:
            return self._has_data(path)
        except (OSError, ValueError):
            return False

    def _has_data(self, path: str) -> bool:
        """Say whether there is anything that is not ours. One HEAD, or one listing."""
        if not is_address(path):
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True
        bucket, key = parts_of(path)
        with self._asking(bucket) as asked:
            if not key.endswith("/"):
                return asked.has(key)
            listed = asked.listing(key, limit=10)
            return any(not item.key.endswith(("/", RECORD_SUFFIX, UNFINISHED_NAME)) for item in listed)

    @contextlib.contextmanager
    def _asking(self, name: str) -> Iterator[Bucket]:
        """Yield a bucket to ask; one that cannot be asked at all is not asked again for each of its objects."""
        if name in self._refused:
            raise self._refused[name].with_traceback(None)
        try:
            yield self._buckets.setdefault(name, Bucket(name))
        except OF_THE_WHOLE_BUCKET as error:
            self._refused[name] = error
            raise


def _local_bytes(path: str) -> bytes | None:
    """Give the bytes of a file, None if there is none; of a forged path to a device or a pipe none are read."""
    try:
        facts = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(facts.st_mode):
        message = "a record was expected there, but it is no file"
        raise ValueError(message)
    _check_size(facts.st_size)
    with open(path, "rb", buffering=0) as stream:
        return stream.read()


def _check_size(size_bytes: int) -> None:
    if size_bytes > _MAX_RECORD_BYTES:
        message = f"it has {size_bytes} bytes, which no record has"
        raise ValueError(message)


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, SuperLuigiError):
        return str(error)
    return f"{path}: {getattr(error, 'strerror', None) or error}"


@dataclass(frozen=True, slots=True)
class _Record:
    """What the bytes of a record hold; `error` says why they are none that can be followed."""

    record: Metadata | None = None
    former: Metadata | None = None
    inputs: tuple[Input, ...] = ()
    error: str | None = None


def _parsed(data: bytes) -> _Record:
    try:
        if data.count(b"[") + data.count(b"{") > _MAX_DEPTH:
            _check_depth(data)
        record = loads(data)
        inputs = _checked(record)
        former = record.pop(SUPERSEDED, None)
        if former is not None:
            _checked(former)
    except RecursionError:
        return _Record(error="it is nested too deep to be a record")
    except ValueError as error:
        return _Record(error=f"it is no record of Super Luigi that can be read: {error}")
    return _Record(record, former, inputs)


def _check_depth(data: bytes) -> None:
    """Refuse what is nested deeper than a record can be; brackets within text count for nothing."""
    depth = 0
    for found in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', data, re.DOTALL):
        if found[0] in (b"[", b"{"):
            depth += 1
            if depth > _MAX_DEPTH:
                message = f"it is nested more than {_MAX_DEPTH} levels deep"
                raise ValueError(message)
        elif found[0] in (b"]", b"}"):
            depth -= 1


_TEXT = (str, type(None))
_MAPPING = (dict, type(None))
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "schema": (str,),
    "task_family": _TEXT,
    "task_module": _TEXT,
    "task_id": _TEXT,
    "version": _TEXT,
    "code": _TEXT,
    "params": _MAPPING,
    "output": _MAPPING,
    "python": _TEXT,
    "packages": _MAPPING,
    IN_MEMORY: _MAPPING,
}
_FIELDS_OF_INPUT = ("fingerprint", "task_family", "task_id", "metadata_path", "stamp")


def _checked(record: object) -> tuple[Input, ...]:
    """Give the inputs of a record, and refuse what is none of ours. One that was written by hand may lack any field."""
    if not isinstance(record, dict):
        message = f"it holds a {type(record).__name__} instead of fields"
        raise ValueError(message)  # noqa: TRY004  (what is wrong is what the file holds)
    schema = record.get("schema", SCHEMA)
    if schema != SCHEMA:
        message = f"its schema is {shown(schema)}, and {SCHEMA!r} was expected; a newer version may have written it"
        raise ValueError(message)
    for name, kinds in _FIELDS.items():
        if name in record and not isinstance(record[name], kinds):
            message = f"its field {name!r} is {shown(record[name])}"
            raise ValueError(message)
    output = output_in(record)
    for name in ("path", "fingerprint"):
        if not isinstance(output.get(name), _TEXT):
            message = f"its field 'output' has the {name} {shown(output[name])}"
            raise ValueError(message)  # noqa: TRY004  (as above)
    for made_from in (record.get(IN_MEMORY) or {}).values():
        _checked(made_from)
    return tuple(inputs_of(record))


def is_followable(record: Metadata) -> bool:
    """Say whether a record is one of ours, and what its run has yielded could be where it says."""
    try:
        inputs = [
            *_checked(record),
            *(one for told in (record.get(IN_MEMORY) or {}).values() for one in inputs_of(told)),
        ]
    except (ValueError, RecursionError):
        return False
    return all(can_be_at(one.path, one.metadata_path) for one in inputs if one.is_dynamic)


def can_be_at(path: str, record_path: str | None) -> bool:
    """Say whether data and record could be where a record tells: no address or path is impossible. Asks nobody."""
    if record_path is None:  # a value, which is nowhere
        return True
    try:
        _check_path(path)
        _check_path(record_path)
    except InvalidNameError:
        return False
    return is_address(path) == is_address(record_path)


def _check_path(path: str) -> None:
    if is_address(path):
        _check_address(path)
    elif not path.strip() or "\0" in path or any(len(part) > _MAX_NAME for part in path.split("/")):
        raise InvalidNameError(path, "cannot be a path", "Give a path such as 'data/features.csv'.")


@dataclass(frozen=True, slots=True)
class Input:
    """What a record says of one of its inputs, see `provenance.describe_input`."""

    role: Role
    is_dynamic: bool
    path: str
    fingerprint: str | None
    task_family: str | None
    task_id: str | None
    metadata_path: str | None
    stamp: str | None = None

    @property
    def name(self) -> str:
        """The role as text, with dots; empty if the task requires nothing else."""
        return dag.in_words(self.role)


def inputs_of(record: Mapping[str, Any]) -> Iterator[Input]:
    """Give the inputs of a record in their order, those that its run has yielded last. Raises ValueError."""
    for name in ("input", "dynamic_input"):
        pending: list[tuple[Role, Any]] = [((), record.get(name))]
        while pending:
            role, item = pending.pop()
            if isinstance(item, list):
                pending.extend(reversed([((*role, position), inner) for position, inner in enumerate(item)]))
            elif isinstance(item, dict) and not isinstance(item.get("path"), str):
                pending.extend(reversed([((*role, key), inner) for key, inner in item.items()]))
            elif isinstance(item, dict):
                facts = [item.get(key) for key in _FIELDS_OF_INPUT]
                for fact in facts:
                    if fact is not None and not isinstance(fact, str):
                        message = f"its field {name!r} holds an input {shown(item)}"
                        raise ValueError(message)
                yield Input(role, name == "dynamic_input", item["path"], *facts)
            elif item is not None:
                message = f"its field {name!r} holds {shown(item)} instead of an input"
                raise ValueError(message)


def shown(value: object) -> str:
    """Give a value in few characters, text without quotation marks."""
    written = value if isinstance(value, str) else repr(value)
    return written if len(written) <= _MAX_SHOWN else f"{written[: _MAX_SHOWN - 1]}…"
