"""Targets without a path: a value that the run holds, and an output that is nothing but an effect.

The way of a value: a task sets it in the `Draft` of its own; when its `run` has ended well, that goes into the `Memory`
of the whole run, from another process as bytes that its report takes along. The invariant: what a task has set counts
once its `run` has ended well and not before, and a run sees no value of another.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import luigi

from superluigi import markup
from superluigi.errors import MemoryTargetError, TargetNotFoundError
from superluigi.markup import Tone

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from superluigi.targets.metadata import Metadata

Key: TypeAlias = tuple[Any, ...]  # the task, and the place of the target in its `output()`

_ORIGIN = "origin"  # where, among the values of a task, stands what they were made from
_ALONE = (None,)  # the place of a target that is no task's and has no name
_RAN = "the task of a NoTarget has run"
_GONE = object()  # stands for a value that was deleted


class Reference(Protocol):
    """A value that is elsewhere, such as on a worker of Dask."""

    def fetch(self) -> Any:
        """Give the value, which is copied here."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A value as the bytes in which it left its process."""

    data: bytes

    def fetch(self) -> Any:
        """Give the value."""
        return pickle.loads(self.data)  # noqa: S301  (our own bytes, from a process of this run)


_DELETED = Packed(b"")
STAYS = Packed(b"stays")  # stands in a report for a value that did not leave its process


class Memory:
    """The values that a run holds; safe between the threads of its process.

    In another process than that of the run, `leaves` says that what is set here leaves with the report, as bytes; in
    one that was forked from it that is so without being said. `stays` says that the values themselves stay here.
    """

    def __init__(
        self, values: Mapping[Key, Reference] | None = None, *, leaves: bool = False, stays: bool = False
    ) -> None:
        self._values: dict[Key, Any] = {key: Held(value) for key, value in (values or {}).items()}
        self._leaving: dict[Key, Any] = {}
        self._leaves = leaves
        self._stays = stays
        self._pid = os.getpid()

    def is_empty(self) -> bool:
        """Say whether there is no value at all."""
        return not self._values

    def has(self, key: Key) -> bool:
        """Say whether there is such a value."""
        return key in self._values

    def get(self, key: Key) -> Any:
        """Give a value; one from another process is unpacked the first time. Raises KeyError."""
        value = self._values[key]
        if isinstance(value, Held):
            value = self._values[key] = value.reference.fetch()
        return value

    def set(self, key: Key, value: Any) -> None:
        """Set one value that is not set yet, outside of any `run` of ours."""
        if key in self._values:
            raise _is_set(key)
        self.change({key: value})

    def delete(self, key: Key) -> None:
        """Let a value go; what is not there is no error."""
        self.change({key: _GONE})

    def change(self, changes: Mapping[Key, Any], leaving: Mapping[Key, Any] | None = None) -> None:
        """Take over all changes, or none of them; `leaving` is what `leaving` has given for them before.

        Raises:
            MemoryTargetError: a value would have to leave the process, and cannot.
        """
        self._leaving.update(self.leaving(changes) if leaving is None else leaving)
        for key, value in changes.items():
            if value is _GONE:
                self._values.pop(key, None)
            else:
                self._values[key] = value

    def leaving(self, changes: Mapping[Key, Any]) -> dict[Key, Any]:
        """Give the changes as they leave this process; nothing, where the run itself is here.

        Raises:
            MemoryTargetError: a value does not pickle, or nobody would take it along.
        """
        if not self._leaves and self._pid == os.getpid():
            return {}
        return {
            key: _DELETED if value is _GONE else value if self._stays and value != _RAN else _packed(key, value)
            for key, value in changes.items()
        }

    def take_leaving(self) -> dict[Key, Any]:
        """Give what was changed in this process, for the process where the run is; once."""
        leaving, self._leaving = self._leaving, {}
        return leaving

    def arrive(self, changes: Mapping[Key, Reference]) -> None:
        """Take over what was changed in another process."""
        for key, value in changes.items():
            if value == _DELETED:
                self._values.pop(key, None)
            else:
                self._values[key] = Held(value)

    def bring(self, keys: Iterable[Key]) -> None:
        """Fetch values that are elsewhere, in a place that is about to end."""
        for key in filter(self.has, keys):
            self.get(key)

    def clear(self) -> None:
        """Let all values go, wherever they are; what is to leave the process is not concerned."""
        self._values.clear()

    def part(self, keys: Iterable[Key]) -> Memory:
        """Give a memory that holds these of the values, as far as they are there."""
        part = Memory()
        part._values = {key: self._values[key] for key in keys if key in self._values}
        return part

    def references(self, keys: Iterable[Key]) -> dict[Key, Reference]:
        """Give those of the values that are there, as they travel.

        Raises:
            MemoryTargetError: one of them does not pickle.
        """
        held = {key: self._values[key] for key in keys if key in self._values}
        return {key: value.reference if isinstance(value, Held) else _packed(key, value) for key, value in held.items()}


@dataclass(frozen=True, slots=True)
class Held:
    """A value of another process as a memory holds it, until it is asked for."""

    reference: Reference


class _MemoryOfTheProcess(Memory):
    """What is set outside of any `run_task`, and what the last one was asked for."""

    of_last_run = Memory()

    def has(self, key: Key) -> bool:
        return super().has(key) or self.of_last_run.has(key)

    def get(self, key: Key) -> Any:
        return super().get(key) if super().has(key) else self.of_last_run.get(key)

    def delete(self, key: Key) -> None:
        super().delete(key)
        self.of_last_run.delete(key)

    def leaving(self, changes: Mapping[Key, Any]) -> dict[Key, Any]:
        if self._pid != os.getpid() and any(value is not _RAN for value in changes.values()):
            message = (
                f"{_named(next(iter(changes)))} was set in a process that Luigi forked, and would be lost with it. "
                "Run the task by run_task, which takes values along, or with one worker."
            )
            raise MemoryTargetError(message)
        return {}


class Draft:
    """What one task has set and deleted so far; what it has not is that of the memory."""

    def __init__(self, bearer: Key) -> None:
        self._bearer = bearer
        self.own: Collection[Key | None] = ()  # what tells the outputs of the task
        self._memory = current()
        self._changes: dict[Key, Any] = {}
        self._leaving: dict[Key, Any] = {}

    def has(self, key: Key) -> bool:
        """Say whether there is such a value."""
        return self._changes[key] is not _GONE if key in self._changes else self._memory.has(key)

    def get(self, key: Key) -> Any:
        """Give a value. Raises KeyError."""
        if key in self._changes and self.has(key):
            return self._changes[key]
        if key in self._changes:
            raise KeyError(key)
        return self._memory.get(key)

    def set(self, key: Key, value: Any) -> None:
        """Set a value; one of the task itself, that an earlier run has set, is replaced."""
        if self.has(key) and (key in self._changes or key not in self.own):
            raise _is_set(key)
        self._changes[key] = value

    def delete(self, key: Key) -> None:
        """Let a value go once the task has ended well."""
        self._changes[key] = _GONE

    def tell_origin(self, made_from: Metadata, in_memory: Metadata) -> None:
        """Keep what the task's values were made from: its own inputs, and those of the values that it has read."""
        self._changes[origin_of(self._bearer)] = (made_from, dict(in_memory))

    def check(self) -> None:
        """See that all that was set can go where it has to.

        Raises:
            MemoryTargetError: a value would have to leave the process, and does not pickle.
        """
        self._leaving = self._memory.leaving(self._changes)

    def settle(self) -> None:
        """Let it count; after `check`."""
        self._memory.change(self._changes, self._leaving)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Let targets of this context set and find their values here."""
        token = _draft.set(self)
        try:
            yield
        finally:
            _draft.reset(token)


_of_the_process = _MemoryOfTheProcess()
_memory: ContextVar[Memory | None] = ContextVar("superluigi_memory", default=None)
_draft: ContextVar[Draft | None] = ContextVar("superluigi_draft", default=None)


def current() -> Memory:
    """Give the memory of the run, or of the process where there is no run."""
    held = _memory.get()
    return _of_the_process if held is None else held


@contextlib.contextmanager
def holding(memory: Memory) -> Iterator[None]:
    """Let targets find their values in this memory until the block ends; then it lets them go."""
    token, draft = _memory.set(memory), _draft.set(None)
    try:
        yield
    finally:
        memory.clear()
        _draft.reset(draft)
        _memory.reset(token)


def keep(memory: Memory, keys: Iterable[Key]) -> Memory:
    """Let values outlive their run: in what is given, and until the next run for targets outside of any."""
    kept = _of_the_process.of_last_run = memory.part(keys)
    return kept


def origin_of(bearer: Key) -> Key:
    """Give what tells the origin of a task's values."""
    return (*bearer, _ORIGIN)


def _packed(key: Key, value: Any) -> Packed:
    import cloudpickle

    try:
        return Packed(bytes(cloudpickle.dumps(value)))
    except Exception as error:
        message = (
            f"The value of {_named(key)}, a {type(value).__name__}, cannot leave the process that made it: {error}. "
            "Run with one worker or in threads (executor=ThreadPoolExecutor()), set a value that pickles, or write a "
            "file."
        )
        raise MemoryTargetError(message) from error


def _is_set(key: Key) -> MemoryTargetError:
    return MemoryTargetError(
        f"{_named(key)} holds a value already, and takes one alone. Set it once, or call delete() before."
    )


def _named(key: Key) -> str:
    """Say whose value it is, without the parameters: some are private."""
    *bearer, own = key
    if own == _ALONE:
        return "a target without a name"
    if not bearer:
        return f"the value {own[0]!r}"
    return f"{bearer[1]}.output(){''.join(f'[{part!r}]' for part in own[1])}" if own != _ORIGIN else str(bearer[1])


class PathlessTarget(luigi.Target):
    """A target that is known by the task whose output it is, or by a name."""

    def __init__(self, name: str | None = None) -> None:
        self.key: Key | None = None if name is None else ((name,),)
        self._pinned: Draft | Memory | None = None

    def __str__(self) -> str:
        """Say what it is and whose."""
        return f"{type(self).__name__} of {'no task' if self.key is None else _named(self.key)}"

    def __repr__(self) -> str:
        """Give the class, and whose it is."""
        return f"<{self}>"

    def _repr_html_(self) -> str:
        """Give what a notebook shows: whether the value is there; not the value, which may be large or elsewhere."""
        sign = markup.said("✓ there", Tone.GOOD) if self.exists() else markup.said("○ not there", Tone.PLAIN)
        return markup.card(markup.titled(markup.beside(str(self), sign)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the values behind: they are the run's."""
        return {**self.__dict__, "_pinned": None}

    def exists(self) -> bool:
        """Say whether the run that is under way has made it."""
        return self.key is not None and self._place.has(self.key)

    @property
    def origin(self) -> tuple[Metadata, Metadata] | None:
        """What the task's values were made from, and by task id those that it has read; None if that is not known."""
        if self.key is None or not self._place.has(origin_of(self.key[:-1])):
            return None
        told: tuple[Metadata, Metadata] = self._place.get(origin_of(self.key[:-1]))
        return told

    def is_bound(self) -> bool:
        """Say whether it is known whose it is."""
        return self.key is not None

    def bound(self, key: Key) -> PathlessTarget:
        """Give the same target, as one of a task's outputs."""
        return self._copy(key=key)

    def within(self, place: Draft | Memory) -> PathlessTarget:
        """Give the same target with its place fixed, so that it is found from any thread, and after the run."""
        return self._copy(_pinned=place)

    def _copy(self, **changes: Any) -> PathlessTarget:
        made = copy.copy(self)
        made.__dict__.update(changes)
        return made

    @property
    def _place(self) -> Draft | Memory:
        return next(place for place in (self._pinned, _draft.get(), current()) if place is not None)


class MemoryTarget(PathlessTarget):
    """A value that the run holds: `set` once by its task, `get` by those that require it.

    As an output of a task of Super Luigi it needs no name. The value is there as long as `run_task` runs; what
    `run_task` itself was asked for lives on in the target that it returns, and `task.output()` finds it until the next
    run. `get` gives the value itself, not a copy: change a copy of it. Where tasks run in other
    processes the value is pickled; on Dask it stays on its worker until somebody asks for it.

    In a plain `luigi.Task` give it a name, which is shared by all tasks of the run.
    """

    def set(self, value: Any) -> None:
        """Set the value; it counts when the `run` that sets it ends well.

        Raises:
            MemoryTargetError: there is a value, or it cannot leave this process.
        """
        key = self._known_key()
        self._place.set(key, value)

    def get(self) -> Any:
        """Give the value.

        Raises:
            TargetNotFoundError: there is none.
        """
        key = self._known_key()
        try:
            return self._place.get(key)
        except KeyError:
            message = (
                f"{self} holds no value: its task has not set one, or the run that held it has ended. "
                "Run the task, and use what run_task returns."
            )
            raise TargetNotFoundError(message) from None

    def delete(self) -> None:
        """Let the value go; its task then is not complete. What is not there is no error."""
        key = self._known_key()
        self._place.delete(key)

    def remove(self) -> None:
        """Let the value go, as `delete` does: what other targets call so."""
        self.delete()

    def _known_key(self) -> Key:
        if self.key is None:  # used alone: the value is this very object's, and ends with it
            self.key = (_ALONE,)
            self._pinned = Memory()
        return self.key


class NoTarget(PathlessTarget):
    """The output of a task that leaves nothing but an effect: it never exists, so the task runs in every `run_task`.

    Once in each: for what requires it in the same run it is there when `run` has ended well. Under `luigi.build`, which
    does not tell one run from another, once in a process.
    """

    def remove(self) -> None:
        """Forget that the task has run; there is nothing else."""
        if self.key is not None:
            self._place.delete(self.key)

    def mark(self) -> None:
        """Say that the task has run."""
        assert self.key is not None
        self._place.set(self.key, _RAN)
