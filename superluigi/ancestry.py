"""Following lineage: the ancestry of an output, read from the records alone, and what differs between two.

Neither the code of the tasks nor their data are needed: a record names its direct inputs, and each of them has a
record of its own. The invariant: nothing is written, each record is read once, and whatever stands in a record,
damaged or forged, it ends as a node that says so.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import stat
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from superluigi import config, visuals
from superluigi.errors import (
    BucketNotFoundError,
    CredentialsError,
    InvalidNameError,
    StorageError,
    StoreUnavailableError,
    SuperLuigiError,
    TargetNotFoundError,
    TaskTypeError,
)
from superluigi.execution import own_target
from superluigi.provenance import SCHEMA
from superluigi.storage.concurrency import run_all
from superluigi.storage.s3 import Bucket
from superluigi.targets import LocalFileTarget, LocalFolderTarget, S3ObjectTarget, S3PrefixTarget
from superluigi.targets.metadata import REMOVED
from superluigi.visuals import Edge, Graph, Look, Node, Tone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import luigi

    from superluigi.dag import Role
    from superluigi.targets import Target
    from superluigi.targets.metadata import Metadata

Output: TypeAlias = "str | os.PathLike[str] | luigi.Target"

RECORD_SUFFIX = ".metadata.json"

IN_MEMORY = "in_memory"  # the field that tells, by task id, what the values that a task read were made from
_MAX_RECORD_BYTES = 256 << 20  # a record holds its direct inputs alone; what is larger is none
_MAX_DEPTH = 120  # levels of a record: metadata are refused beyond 100
_OF_THE_WHOLE_BUCKET = (BucketNotFoundError, CredentialsError, StoreUnavailableError)
_MAX_SHOWN = 60


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


_LOOKS = {
    State.RECORDED.value: Look("✓", Tone.GOOD, "its record is there"),
    State.RAW.value: Look("○", Tone.PLAIN, "data without a record"),
    State.REMOVED.value: Look("−", Tone.FAINT, "the data were removed, the record stays"),  # noqa: RUF001  (a minus)
    State.IN_MEMORY.value: Look("•", Tone.PLAIN, "a value that a run held, told by the record downstream"),
    State.WITHOUT_RECORD.value: Look("·", Tone.FAINT, "a value or a table of which nothing is told"),
    State.REPLACED.value: Look("≠", Tone.NOTE, "the record is of other data than were read"),
    State.MISSING.value: Look("?", Tone.BAD, "neither data nor record"),
    State.UNREADABLE.value: Look("!", Tone.BAD, "the record cannot be read"),
}


@dataclass(frozen=True, slots=True)
class Link:
    """One input of an ancestor, as its record names it.

    `role` leads to it in the nesting of `requires()`, or of what `run` has yielded if it `is_dynamic`. `key` is that
    of the ancestor that was read, `fingerprint` that of the bytes, None where it is not known. A link that
    `closes_circle` leads back to something downstream, which only damaged or forged records do.
    """

    role: Role
    key: str
    fingerprint: str | None
    is_dynamic: bool = False
    closes_circle: bool = False


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One output in the ancestry.

    The key is the path; where downstream records have read other data at the path than those of the record there, it
    says which. `record` is what is found at `record_path`; of a replaced ancestor it is that of the other data, and
    its inputs are not followed. Of a value that a run held it is what the record downstream tells. `error` says why
    a record cannot be read. Task and fingerprint are those of the record, else those that are named downstream.
    """

    key: str
    path: str
    state: State
    record_path: str | None = None
    record: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    task_family: str | None = None
    task_id: str | None = None
    fingerprint: str | None = None
    error: str | None = None
    inputs: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Lineage:
    """The ancestry of an output: `root`, and all `nodes`, each after its own ancestors; the root is the last."""

    root: Ancestor
    nodes: tuple[Ancestor, ...]

    def __str__(self) -> str:
        """Give the tree."""
        return self.to_text()

    def _repr_html_(self) -> str:
        return visuals.fragment(self._graph())

    def by_key(self) -> dict[str, Ancestor]:
        """Give the nodes by the keys that links name, in their order."""
        return {node.key: node for node in self.nodes}

    def to_text(self, *, colour: bool = False) -> str:
        """Give a tree, the inputs indented below; what several have read is shown once and referred to after."""
        return visuals.text(self._graph(), colour=colour)

    def to_mermaid(self) -> str:
        """Give a Mermaid flowchart; Mermaid draws 500 arrows unless its `maxEdges` is set."""
        return visuals.mermaid(self._graph())

    def to_dot(self) -> str:
        """Give it in the language of Graphviz."""
        return visuals.dot(self._graph())

    def to_html(self) -> str:
        """Give a page of its own, which loads nothing and has no scripts."""
        return visuals.page(self._graph())

    def to_json(self) -> str:
        """Give what `to_dict` gives as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as dicts, lists and text, the records whole."""
        return {"root": self.root.key, "nodes": [_as_dict(node) for node in self.nodes]}

    def _graph(self) -> Graph:
        return Graph(
            f"Lineage of {self.root.path}", (self.root.key,), tuple(_drawn(node) for node in self.nodes), _LOOKS
        )


def _as_dict(node: Ancestor) -> dict[str, Any]:
    return {
        "key": node.key,
        "path": node.path,
        "state": node.state.value,
        "record_path": node.record_path,
        "task_family": node.task_family,
        "task_id": node.task_id,
        "fingerprint": node.fingerprint,
        "error": node.error,
        "inputs": [
            {
                "role": list(link.role),
                "key": link.key,
                "fingerprint": link.fingerprint,
                "is_dynamic": link.is_dynamic,
                "closes_circle": link.closes_circle,
            }
            for link in node.inputs
        ],
        "record": node.record,
    }


def _drawn(node: Ancestor) -> Node:
    detail = node.error or ""
    if not detail and node.task_family is not None:
        params = (node.record or {}).get("params") or {} if node.state is not State.REPLACED else {}
        detail = f"{node.task_family}({', '.join(f'{name}={_shown(value)}' for name, value in params.items())})"
    edges = tuple(Edge(link.key, _named(link)) for link in node.inputs)
    return Node(node.key, node.path, node.state.value, detail, edges)


def _named(link: Link) -> str:
    notes = [*(["yielded"] if link.is_dynamic else []), *(["closes a circle"] if link.closes_circle else [])]
    return " ".join([*([".".join(map(str, link.role))] if link.role else []), *(f"({note})" for note in notes)])


def _shown(value: object) -> str:
    written = value if isinstance(value, str) else repr(value)
    return written if len(written) <= _MAX_SHOWN else f"{written[: _MAX_SHOWN - 1]}…"


# Following


def lineage(path_or_target: Output) -> Lineage:
    """Give the ancestry of an output, from the records alone; nothing is written and no code of a task is needed.

    Takes a target; a local path; an `s3://` address of an object, or of a prefix, also without the slash at its end;
    or the path of a record (`*.metadata.json`). Local records are read one by one, those in S3 so many at a time as
    `max_concurrency` says, one level of inputs after the other: one GET each, and where there is no record a HEAD or
    a listing, which tells raw data from what is missing. Records do not say with which credentials S3 was asked:
    those of the target that is given hold for its own buckets, the usual ones for all others.

    Paths stand in a record as its task saw them. A relative one is looked for in the working directory; where nothing
    is found there, beside the other files of the downstream record: in the folder to which that one's own path is
    relative, then in the folder of that record.

    A record may be that of other data than were read, as the path was written again since. If it still holds the
    former record, that is followed; else the ancestor is `replaced`, and its own ancestors are not known.

    Raises:
        TargetNotFoundError: there are neither data nor a record at the path itself.
        InvalidNameError: it cannot be a path or an address.
        TaskTypeError: it is something else, such as a task.
    """
    found = find(path_or_target, "lineage")
    if found.state is State.MISSING:
        raise nothing_at(found.path)
    return _Tracing(found).lineage()


# One output


@dataclass(frozen=True, slots=True)
class _Place:
    """Where data may be, and their record; local paths are absolute. `base` is what they are relative to, if known."""

    path: str
    record_paths: tuple[str, ...]
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is found at the first of several places where there is anything.

    `record` is that of the data which are to be there, `former` that of the data before them, if it was kept.
    """

    path: str
    state: State
    record_path: str | None = None
    record: Metadata | None = None
    former: Metadata | None = None
    error: str | None = None
    base: str | None = None
    given: Target | None = None

    def as_target(self) -> Target:
        """Give the target: what the user has given, else one with data and record where they were found."""
        if self.given is not None:
            return self.given
        output = (self.record or {}).get("output") or {}
        inside = os.path.join(self.path, RECORD_SUFFIX) if not is_remote(self.path) else f"{self.path}{RECORD_SUFFIX}"
        is_inside = self.record_path == inside
        if is_remote(self.path):
            bucket, key = _parts(self.path)
            record_bucket, record_key = _parts(self.record_path or f"{self.path.rstrip('/')}{RECORD_SUFFIX}")
            if not key.endswith("/"):
                return S3ObjectTarget(bucket, key, record_bucket, record_key)
            if is_inside:
                return S3PrefixTarget(bucket, key, metadata_inside_prefix=True)
            return S3PrefixTarget(bucket, key, record_bucket, record_key)
        if is_inside:
            return LocalFolderTarget(self.path, metadata_inside_folder=True)
        is_folder = os.path.isdir(self.path) or output.get("type") == LocalFolderTarget.__name__
        return (LocalFolderTarget if is_folder else LocalFileTarget)(self.path, self.record_path)


def find(path_or_target: Output, function: str) -> Found:
    """Give what is found of an output that a user names; `function` is named in errors.

    Raises:
        InvalidNameError: it cannot be a path or an address.
        TaskTypeError: it is something else, such as a task.
    """
    target = own_target(path_or_target)
    reader = _Reader(target)
    if target is not None:
        found = reader.find((_Place(_absolute(str(target.path)), (_absolute(str(target.metadata_path)),)),))
        return _with_present_record(replace(found, given=target))
    text = _text(path_or_target, function)
    if text.endswith(RECORD_SUFFIX):
        return _with_present_record(_found_by_record(reader, _absolute(text)))
    return _with_present_record(reader.find(_places_of(text)))


def nothing_at(path: str) -> TargetNotFoundError:
    """Build the error for an output of which nothing is left."""
    message = (
        f"There are neither data nor a lineage record at {path}. Correct the path, or run the task that makes it; "
        "of data whose record has a path of its own, give the target or that path."
    )
    return TargetNotFoundError(message)


def is_remote(path: str) -> bool:
    """Say whether it is an address in S3."""
    return path.startswith("s3://")


def _text(given: object, function: str) -> str:
    if not isinstance(given, str | os.PathLike):
        message = (
            f"{function}() was given {given!r}, a {type(given).__name__}, but takes a target, a path or an s3:// "
            "address. Of a task give its output()."
        )
        raise TaskTypeError(message)
    text = os.fsdecode(os.fspath(given))
    if not isinstance(given, str) and text.replace("\\", "/").startswith("s3:/"):
        raise InvalidNameError(text, "is an s3:// address as a Path, which drops a slash", "Give the address as text.")
    if is_remote(text):
        _check_address(text)
    elif not text.strip() or "\0" in text:
        raise InvalidNameError(text, "cannot be a path", "Give a path such as 'data/features.csv'.")
    return os.path.expanduser(text) if text.startswith("~") else text


def _check_address(address: str) -> None:
    bucket, key = _parts(address)
    if not bucket or not key.strip("/"):
        raise InvalidNameError(address, "names a bucket, not data", "Give s3://bucket/key or s3://bucket/prefix/.")
    S3ObjectTarget(bucket, key.rstrip("/"))  # knows what S3 allows


def _parts(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, key


def _absolute(path: str, base: str | None = None) -> str:
    """Give a local path from the root, without asking for links; an address stays as it is."""
    return path if is_remote(path) else os.path.normpath(os.path.join(base or os.getcwd(), path))


def _places_of(text: str) -> tuple[_Place, ...]:
    """Give where data and record may be, by the rules by which targets name their records."""
    if not is_remote(text):
        path = _absolute(text)
        beside, inside = str(LocalFileTarget(path).metadata_path), os.path.join(path, RECORD_SUFFIX)
        return (_Place(path, (beside, inside)),)
    name = text.rstrip("/")
    as_prefix = _Place(f"{name}/", (f"{name}{RECORD_SUFFIX}", f"{name}/{RECORD_SUFFIX}"))
    return (as_prefix,) if text.endswith("/") else (_Place(name, (f"{name}{RECORD_SUFFIX}",)), as_prefix)


def _found_by_record(reader: _Reader, record_path: str) -> Found:
    """Give what is found of an output whose record is named; the data are beside it if they bear its name."""
    name = record_path.removesuffix(RECORD_SUFFIX)
    found = reader.find((_Place(name.rstrip("/"), (record_path,)),))
    output = (found.record or {}).get("output")
    told = output.get("path") if isinstance(output, dict) else None
    if not isinstance(told, str) or not told:
        return found
    if os.path.basename(told.rstrip("/")) == os.path.basename(name.rstrip("/")) and is_remote(told) == is_remote(name):
        is_prefix = is_remote(told) and told.endswith("/")
        return replace(found, path=f"{name.rstrip('/')}/" if is_prefix else found.path)
    return replace(found, path=_absolute(told))


def _with_present_record(found: Found) -> Found:
    """Give what is found with the record that is of the present data, where two are kept since those were replaced."""
    if found.record is not None and is_remote(found.path) and found.given is None and found.path[-1] != "/":
        output = found.record.get("output")
        told = output.get("path") if isinstance(output, dict) else None
        if told == f"{found.path}/":  # the record of a prefix lies where that of an object of its name would
            found = replace(found, path=told)
    if found.former is None:
        return found
    with contextlib.suppress(SuperLuigiError):
        if found.as_target().read_metadata() == found.former:
            return replace(found, record=found.former, former=None)
    return found


# Reading


class _Reader:
    """Reads records, each once; safe between the threads of one call."""

    def __init__(self, target: Target | None) -> None:
        self._buckets: dict[str, Bucket] = {}
        self._refused: dict[str, StorageError] = {}
        self._read: dict[str, _Record | None] = {}
        if isinstance(target, S3ObjectTarget | S3PrefixTarget):
            store = target.store
            self._buckets = {bucket.name: bucket for bucket in (store.metadata_bucket, store.bucket)}

    def find_all(self, asked: Iterable[tuple[_Place, ...]]) -> dict[tuple[_Place, ...], Found]:
        """Give what is found for each; those in S3 many at a time."""
        found: dict[tuple[_Place, ...], Found] = {}

        def find(places: tuple[_Place, ...]) -> None:
            found[places] = self.find(places)

        remote = []
        for places in asked:
            if any(is_remote(path) for place in places for path in (place.path, *place.record_paths)):
                remote.append(functools.partial(find, places))
            else:
                find(places)
        if remote:
            run_all(remote, max_concurrency=config.max_concurrency())
        return found

    def find(self, places: tuple[_Place, ...]) -> Found:
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
                return Found(place.path, state, record_path, read.record, read.former, base=place.base)
            try:
                if self._has_data(place):
                    return Found(place.path, State.RAW, base=place.base)
            except (OSError, ValueError) as error:
                return Found(place.path, State.UNREADABLE, error=_reason(error, place.path))
        return Found(places[0].path, State.MISSING)

    def _record(self, path: str) -> _Record | None:
        if path not in self._read:
            data = self._remote_bytes(path) if is_remote(path) else _local_bytes(path)
            self._read[path] = None if data is None else _parsed(data)
        return self._read[path]

    def _remote_bytes(self, address: str) -> bytes | None:
        bucket, key = _parts(address)
        with self._asking(bucket) as asked:
            return asked.get_bytes(key)

    def _has_data(self, place: _Place) -> bool:
        """Say whether there is anything that is not ours. One HEAD, or one listing."""
        if not is_remote(place.path):
            try:
                os.stat(place.path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True
        bucket, key = _parts(place.path)
        with self._asking(bucket) as asked:
            if not key.endswith("/"):
                return asked.has(key)
            listed = asked.listing(key, limit=10)
            return any(not item.key.endswith(("/", RECORD_SUFFIX, ".superluigi-unfinished")) for item in listed)

    @contextlib.contextmanager
    def _asking(self, name: str) -> Iterator[Bucket]:
        """Yield a bucket to ask; one that cannot be asked at all is not asked again for each of its objects."""
        if name in self._refused:
            raise self._refused[name].with_traceback(None)
        try:
            yield self._buckets.setdefault(name, Bucket(name))
        except _OF_THE_WHOLE_BUCKET as error:
            self._refused[name] = error
            raise


def _local_bytes(path: str) -> bytes | None:
    """Give the bytes of a file, None if there is none; of a forged path to a device or a pipe none are read."""
    try:
        facts = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MAX_RECORD_BYTES:
        message = f"a record was expected there, but it is no file, or one of {facts.st_size} bytes"
        raise ValueError(message)
    with open(path, "rb", buffering=0) as stream:
        return stream.read()


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, SuperLuigiError):
        return str(error)
    return f"{path}: {getattr(error, 'strerror', None) or error}"


@dataclass(frozen=True, slots=True)
class _Record:
    """What the bytes of a record hold; `error` says why they are none that can be followed."""

    record: Metadata | None = None
    former: Metadata | None = None
    error: str | None = None


def _parsed(data: bytes) -> _Record:
    try:
        if data.count(b"[") + data.count(b"{") > _MAX_DEPTH:
            _check_depth(data)
        record = json.loads(data, parse_constant=_refuse, parse_float=_finite)
        _check(record)
        former = record.pop("superseded", None)
        if former is not None:
            _check(former)
    except RecursionError:
        return _Record(error="it is nested too deep to be a record")
    except ValueError as error:
        return _Record(error=f"it is no record of Super Luigi that can be read: {error}")
    return _Record(record, former)


def _refuse(constant: str) -> NoReturn:
    message = f"{constant} is no JSON"
    raise ValueError(message)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        _refuse(digits)
    return number


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
_FIELDS_OF_INPUT = ("fingerprint", "task_family", "task_id", "metadata_path")


def _check(record: object) -> None:
    """Refuse what is no record of ours. A record that was written by hand may lack any field."""
    if not isinstance(record, dict):
        message = f"it holds a {type(record).__name__} instead of fields"
        raise ValueError(message)  # noqa: TRY004  (what is wrong is what the file holds)
    schema = record.get("schema", SCHEMA)
    if schema != SCHEMA:
        message = f"its schema is {_shown(schema)}, and {SCHEMA!r} was expected; a newer version may have written it"
        raise ValueError(message)
    for name, kinds in _FIELDS.items():
        if name in record and not isinstance(record[name], kinds):
            message = f"its field {name!r} is {_shown(record[name])}"
            raise ValueError(message)
    output = record.get("output") or {}
    for name in ("path", "fingerprint"):
        if not isinstance(output.get(name), _TEXT):
            message = f"its field 'output' has the {name} {_shown(output[name])}"
            raise ValueError(message)  # noqa: TRY004  (as above)
    for _ in inputs_of(record):
        pass
    for made_from in (record.get(IN_MEMORY) or {}).values():
        _check(made_from)


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
                facts = {key: item.get(key) for key in _FIELDS_OF_INPUT}
                if not all(isinstance(fact, _TEXT) for fact in facts.values()):
                    message = f"its field {name!r} holds an input {_shown(item)}"
                    raise ValueError(message)
                yield Input(role, name == "dynamic_input", item["path"], **facts)
            elif item is not None:
                message = f"its field {name!r} holds {_shown(item)} instead of an input"
                raise ValueError(message)


# The graph


class _Tracing:
    """One walk from an output to all that it was made from, one level of inputs after the other."""

    def __init__(self, root: Found) -> None:
        self._reader = _Reader(root.given)
        self._found: dict[tuple[_Place, ...], Found] = {}
        self._placed: dict[tuple[Any, ...], tuple[_Place, ...]] = {}  # thousands may have read the same
        self._nodes: dict[str, Ancestor] = {}
        self._folder = os.getcwd()
        self._root = root

    def lineage(self) -> Lineage:
        """Follow all inputs."""
        state = self._root.state
        root = _ancestor(self._root.path, self._root, state, self._root.record)
        self._nodes[root.key] = root
        level = [(root, self._root)]
        while level:
            level = self._following(level)
        nodes = _ordered(self._nodes, root.key)
        return Lineage(nodes[-1], nodes)

    def _following(self, level: list[tuple[Ancestor, Found]]) -> list[tuple[Ancestor, Found]]:
        """Give the ancestors that the inputs of one level lead to and that were not met before."""
        inputs = []
        for node, found in level:
            if node.record is not None and node.state is not State.REPLACED:
                bases = self._bases(node.record, found)
                inputs.append((node, bases, [(given, self._places(given, bases)) for given in inputs_of(node.record)]))
        asked = dict.fromkeys(places for _, _, given in inputs for _, places in given if places)
        self._found.update(self._reader.find_all(places for places in asked if places not in self._found))
        following = []
        for node, bases, given in inputs:
            links = []
            for one, places in given:
                found = self._found[places] if places else _pathless(one, node.record or {}, bases)
                upstream = _upstream(one, found)
                if upstream.key not in self._nodes:
                    self._nodes[upstream.key] = upstream
                    following.append((upstream, found))
                links.append(Link(one.role, upstream.key, one.fingerprint, one.is_dynamic))
            self._nodes[node.key] = replace(node, inputs=tuple(links))
        return following

    def _places(self, given: Input, bases: tuple[str, ...]) -> tuple[_Place, ...]:
        key = given.path, given.metadata_path, bases
        if key not in self._placed:
            self._placed[key] = _places(given, bases)
        return self._placed[key]

    def _bases(self, record: Mapping[str, Any], found: Found) -> tuple[str, ...]:
        """Give the folders that relative paths in a record may be relative to, in the order in which they are tried."""
        bases = [self._folder] if found.base is None else [self._folder, found.base]
        told = (record.get("output") or {}).get("path")
        if isinstance(told, str) and not is_remote(found.path) and not os.path.isabs(told):
            tail = os.path.normpath(told)
            if found.path.endswith(f"{os.sep}{tail}"):
                bases.append(found.path.removesuffix(tail).rstrip(os.sep) or os.sep)
        if found.record_path is not None and not is_remote(found.record_path):
            bases.append(os.path.dirname(found.record_path))
        return tuple(dict.fromkeys(bases))


def _places(given: Input, bases: tuple[str, ...]) -> tuple[_Place, ...]:
    """Give where an input may be; nowhere, if it is a value, a table or another target that has no record."""
    record_path = given.metadata_path
    if record_path is None:
        if not is_remote(given.path):
            return ()
        record_path = f"{given.path.rstrip('/')}{RECORD_SUFFIX}"
    if _is_fixed(given.path) and _is_fixed(record_path):
        return (_Place(_absolute(given.path), (_absolute(record_path),)),)
    return tuple(_Place(_absolute(given.path, base), (_absolute(record_path, base),), base) for base in bases)


def _pathless(given: Input, downstream: Mapping[str, Any], bases: tuple[str, ...]) -> Found:
    """Give what the record downstream tells of a value that its run held, and of those that this was made from."""
    told = (downstream.get(IN_MEMORY) or {}).get(given.task_id)
    if told is None:
        return Found(given.path, State.WITHOUT_RECORD)
    record = {**told, IN_MEMORY: downstream[IN_MEMORY]}
    return Found(given.path, State.IN_MEMORY, record=record, base=next(iter(bases[1:]), None))


def _is_fixed(path: str) -> bool:
    return is_remote(path) or os.path.isabs(path)


def _upstream(given: Input, found: Found) -> Ancestor:
    """Give the ancestor that was read: by its record, or by a former one, if either is of the bytes that were read."""
    if found.state in (State.IN_MEMORY, State.WITHOUT_RECORD):
        return _as_named(_ancestor(f"{given.task_id}@{given.path}", found, found.state, found.record), given)
    for record in (found.record, found.former):
        if record is not None and _is_of(record, given):
            key = found.path if record is found.record else f"{given.fingerprint}@{found.path}"
            state = State.REMOVED if REMOVED in record else State.RECORDED
            return _ancestor(key, found, state, record)
    if found.record is not None:
        key = f"{given.fingerprint or given.task_id}@{found.path}"
        return _as_named(_ancestor(key, found, State.REPLACED, found.record), given)
    return _as_named(_ancestor(found.path, found, found.state, None), given)


def _as_named(node: Ancestor, given: Input) -> Ancestor:
    return replace(node, task_family=given.task_family, task_id=given.task_id, fingerprint=given.fingerprint)


def _is_of(record: Mapping[str, Any], given: Input) -> bool:
    """Say whether a record is of the data that were read, as far as both tell."""
    fingerprint = (record.get("output") or {}).get("fingerprint")
    if fingerprint is not None and given.fingerprint is not None:
        return bool(fingerprint == given.fingerprint)
    told = record.get("task_id")
    return told is None or given.task_id is None or told == given.task_id


def _ancestor(key: str, found: Found, state: State, record: Metadata | None) -> Ancestor:
    told = record or {}
    return Ancestor(
        key,
        found.path,
        state,
        record_path=found.record_path,
        record=record,
        task_family=told.get("task_family"),
        task_id=told.get("task_id"),
        fingerprint=(told.get("output") or {}).get("fingerprint"),
        error=found.error,
    )


def _ordered(nodes: Mapping[str, Ancestor], root: str) -> tuple[Ancestor, ...]:
    """Give the nodes, each after its ancestors; links that lead back into the path from the root are marked."""
    finished: dict[str, Ancestor] = {}
    path: dict[str, tuple[Iterator[Link], list[Link]]] = {root: (iter(nodes[root].inputs), [])}
    while path:
        key, (remaining, passed) = next(reversed(path.items()))
        for link in remaining:
            passed.append(replace(link, closes_circle=True) if link.key in path else link)
            if link.key not in path and link.key not in finished:
                path[link.key] = (iter(nodes[link.key].inputs), [])
                break
        else:
            finished[key] = replace(nodes[key], inputs=tuple(passed))
            del path[key]
    return tuple(finished.values())
