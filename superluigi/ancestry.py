"""Following lineage: the ancestry of an output, read from the records alone, and what differs between two.

Neither the code of the tasks nor their data are needed: a record names its direct inputs, and each of them has a
record of its own. The invariant: nothing is written, each record is read once, and whatever stands in a record,
damaged or forged, it ends as a node that says so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from superluigi import dag, garbage
from superluigi.markup import Tone
from superluigi.pictures.drawings import Drawing
from superluigi.records import (
    Found,
    Input,
    Output,
    Place,
    Reader,
    State,
    absolute,
    find,
    inputs_of,
    nothing_at,
    shown,
)
from superluigi.storage.addresses import is_address
from superluigi.targets.metadata import IN_MEMORY, RECORD_SUFFIX, REMOVED, output_in
from superluigi.visuals import Edge, Graph, Look, Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from superluigi.dag import Role
    from superluigi.targets.metadata import Metadata

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
class Lineage(Drawing):
    """The ancestry of an output: `root`, and all `nodes`, each after its own ancestors; the root is the last."""

    root: Ancestor
    nodes: tuple[Ancestor, ...]

    def __repr__(self) -> str:
        """Give the tree: it is asked for to be read."""
        return str(self)

    def by_key(self) -> dict[str, Ancestor]:
        """Give the nodes by the keys that links name, in their order."""
        return {node.key: node for node in self.nodes}

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
        detail = f"{node.task_family}({', '.join(f'{name}={shown(value)}' for name, value in params.items())})"
    edges = tuple(Edge(link.key, _named(link)) for link in node.inputs)
    return Node(node.key, node.path, node.state.value, detail, edges, node.task_family or "")


def _named(link: Link) -> str:
    notes = [*(["yielded"] if link.is_dynamic else []), *(["closes a circle"] if link.closes_circle else [])]
    return " ".join([*([dag.in_words(link.role)] if link.role else []), *(f"({note})" for note in notes)])


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
    return trace(path_or_target, "lineage")


def trace(path_or_target: Output, function: str) -> Lineage:
    """Give what `lineage` gives; `function` is named in errors."""
    found = find(path_or_target, function)
    if found.state is State.MISSING:
        raise nothing_at(found.path)
    with garbage.held_off():
        return _Tracing(found).lineage()


# The graph


class _Tracing:
    """One walk from an output to all that it was made from, one level of inputs after the other."""

    def __init__(self, root: Found) -> None:
        self._reader = Reader(root.given)
        self._found: dict[tuple[Place, ...], Found] = {}
        self._placed: dict[tuple[Any, ...], tuple[Place, ...]] = {}  # thousands may have read the same
        self._met: dict[tuple[Any, ...], str] = {}
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
                read = found.inputs if node.record is found.record else inputs_of(node.record)
                inputs.append((node, bases, [(given, self._places(given, bases)) for given in read]))
        asked = dict.fromkeys(places for _, _, given in inputs for _, places in given if places)
        self._found.update(self._reader.find_all(places for places in asked if places not in self._found))
        following = []
        for node, bases, given in inputs:
            links = []
            for one, places in given:
                met = places, one.fingerprint, one.task_id
                key = self._met.get(met) if places else None
                if key is None:
                    found = self._found[places] if places else _pathless(one, node.record or {}, bases)
                    upstream = _upstream(one, found)
                    key = self._met[met] = upstream.key
                    if key not in self._nodes:
                        self._nodes[key] = upstream
                        following.append((upstream, found))
                links.append(Link(one.role, key, one.fingerprint, one.is_dynamic))
            self._nodes[node.key] = replace(node, inputs=tuple(links))
        return following

    def _places(self, given: Input, bases: tuple[str, ...]) -> tuple[Place, ...]:
        key = given.path, given.metadata_path, bases
        if key not in self._placed:
            self._placed[key] = _places(given, bases)
        return self._placed[key]

    def _bases(self, record: Mapping[str, Any], found: Found) -> tuple[str, ...]:
        """Give the folders that relative paths in a record may be relative to, in the order in which they are tried."""
        bases = [self._folder] if found.base is None else [self._folder, found.base]
        told = output_in(record).get("path")
        if isinstance(told, str) and not is_address(found.path) and not os.path.isabs(told):
            tail = os.path.normpath(told)
            if found.path.endswith(f"{os.sep}{tail}"):
                bases.append(found.path.removesuffix(tail).rstrip(os.sep) or os.sep)
        if found.record_path is not None and not is_address(found.record_path):
            bases.append(os.path.dirname(found.record_path))
        return tuple(dict.fromkeys(bases))


def _places(given: Input, bases: tuple[str, ...]) -> tuple[Place, ...]:
    """Give where an input may be; nowhere, if it is a value, a table or another target that has no record."""
    record_path = given.metadata_path
    if record_path is None:
        if not is_address(given.path):
            return ()
        record_path = f"{given.path.rstrip('/')}{RECORD_SUFFIX}"
    if _is_fixed(given.path) and _is_fixed(record_path):
        return (Place(absolute(given.path), (absolute(record_path),)),)
    return tuple(Place(absolute(given.path, base), (absolute(record_path, base),), base) for base in bases)


def _pathless(given: Input, downstream: Mapping[str, Any], bases: tuple[str, ...]) -> Found:
    """Give what the record downstream tells of a value that its run held, and of those that this was made from."""
    told = (downstream.get(IN_MEMORY) or {}).get(given.task_id)
    if told is None:
        return Found(given.path, State.WITHOUT_RECORD)
    record = {**told, IN_MEMORY: downstream[IN_MEMORY]}
    base = next(iter(bases[1:]), None)
    return Found(given.path, State.IN_MEMORY, record=record, inputs=tuple(inputs_of(record)), base=base)


def _is_fixed(path: str) -> bool:
    return is_address(path) or os.path.isabs(path)


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
    fingerprint = output_in(record).get("fingerprint")
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
        fingerprint=output_in(told).get("fingerprint"),
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
