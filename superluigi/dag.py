"""Nested values, and the graph of tasks: walked without recursion, each task visited once.

Nothing here knows what a task does. The invariant: every function takes time that grows with tasks plus edges,
and none of them recurses along the graph. What a task of ours requires is asked of it once, and remembered until
a task class is defined or changed, or `forget` is called; `identity` remembers its ids in the same place.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import luigi
from luigi.task import flatten
from luigi.task_register import Register

from superluigi.errors import CycleError, TaskTypeError

Node = TypeVar("Node", bound=Hashable)

Role = tuple[str | int | None, ...]


def map_nested(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to every leaf of nested dicts, lists and tuples; None stays None.

    Dicts keep their keys and order, named tuples their type; any other iterable but text becomes a list.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: map_nested(function, item) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [map_nested(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if _is_collection(value):
        return [map_nested(function, item) for item in value]
    return function(value)


def path_of(target: Any) -> Any:
    """Give the path of a target of whatever kind, None if it has none; of gokart's it is a method."""
    path = getattr(target, "path", None)
    return path() if callable(path) else path


def place_of(target: Any) -> str:
    """Say where a target is, in the same words in every process: its path, else what it says of itself, else its kind.

    What Python says of an object that says nothing is where it lies in memory; records would differ for no reason.
    """
    path = path_of(target)
    if path is not None:
        return str(path)
    kind: Any = type(target)
    says_nothing = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    return f"a {kind.__name__}" if says_nothing else str(target)


def leaves(value: Any) -> Iterator[tuple[Role, Any]]:
    """Give every leaf of a nested value with its role: the dict keys and positions that lead to it.

    A lone value has the role `()`. The members of a set have no position and share the role None.
    """
    if isinstance(value, luigi.Target | luigi.Task):  # what most tasks give: asked ten thousand times, it counts
        yield (), value
        return
    pending: list[tuple[Role, Any]] = [((), value)]
    while pending:
        role, item = pending.pop()
        if item is None:
            continue
        if isinstance(item, Mapping):
            pending.extend(reversed([((*role, _key(key)), child) for key, child in item.items()]))
        elif isinstance(item, set | frozenset):
            pending.extend(reversed([((*role, None), child) for child in item]))
        elif _is_collection(item):
            pending.extend(reversed([((*role, position), child) for position, child in enumerate(item)]))
        else:
            yield role, item


def in_words(role: Role) -> str:
    """Give a role as text, with dots between its parts; empty for a lone value, and for a member of a set."""
    return ".".join(str(part) for part in role if part is not None)


def _is_collection(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | luigi.Task | luigi.Target)


def _key(key: object) -> str | int:
    return key if isinstance(key, str) or type(key) is int else f"{type(key).__name__}:{key}"


# What is remembered of tasks

_NOTHING: tuple[object, dict[str, Any]] = (None, {})

_generation = object()
_settled: ContextVar[object | None] = ContextVar("superluigi_settled", default=None)
_of_classes: weakref.WeakKeyDictionary[type, tuple[object, dict[str, Any]]] = weakref.WeakKeyDictionary()


def forget() -> None:
    """Let everything that is remembered of tasks be found anew: a class was defined or changed, or a run begins."""
    global _generation  # noqa: PLW0603  (one for the process is the point)
    _generation = object()


@contextlib.contextmanager
def asked_anew() -> Iterator[None]:
    """Let everything be found anew in the block, which is a run or looks at tasks between two, and again after it."""
    forget()
    try:
        yield
    finally:
        forget()


@contextlib.contextmanager
def settled(*, anew: bool = False) -> Iterator[None]:
    """Remember what is found out of tasks until the block ends, whatever task classes are defined meanwhile.

    For a run, from its beginning: a task that imports others, or begins a run of its own, must not change the ids and
    requirements that were told to the scheduler; a block within another holds what that holds, unless it is to begin
    anew. What is remembered of classes is not held.
    """
    if _settled.get() is not None and not anew:
        yield
        return
    token = _settled.set(object())
    try:
        yield
    finally:
        _settled.reset(token)


def remembered(bearer: Any) -> dict[str, Any]:
    """Give what is remembered of a task, or of a class of tasks; empty once `forget` was called.

    Also once a task class was defined, ours or Luigi's. A task bears it itself; a class does not, as it would travel
    along where a class is pickled by value.
    """
    registered = Register._reg  # noqa: SLF001  (Luigi tells no other way that a class was defined)
    is_class = isinstance(bearer, type)
    now: object = None if is_class else _settled.get()
    if now is None:
        now = _generation, len(registered), registered[-1]
    known: tuple[object, dict[str, Any]]
    known = _of_classes.get(bearer, _NOTHING) if is_class else bearer.__dict__.get("_remembered", _NOTHING)
    when, facts = known
    if when != now:
        facts = {}
        if is_class:
            _of_classes[bearer] = now, facts
        else:
            bearer.__dict__["_remembered"] = now, facts
    return facts


def is_ours(task: luigi.Task) -> bool:
    """Say whether the task is one of Super Luigi's, with an id of its own."""
    return hasattr(task, "luigi_task_id")


def is_group(task_cls: type[luigi.Task]) -> bool:
    """Say whether tasks of a class have nothing of their own: they are complete when all that they require is."""
    return task_cls.complete is luigi.WrapperTask.complete


def hands_on(task: luigi.Task) -> bool:
    """Say whether who requires a task reads what that requires: a group, also one with a `complete()` of its own."""
    return isinstance(task, luigi.WrapperTask) or is_group(type(task))


def is_external(task: luigi.Task | type[luigi.Task]) -> bool:
    """Say whether there is nothing to run of a task: its data are made elsewhere."""
    run: object = task.run
    return run is None or run is NotImplemented


def is_work(task: luigi.Task) -> bool:
    """Say whether a task makes something itself."""
    return not (is_group(type(task)) or is_external(task))


def is_known_complete(task: luigi.Task) -> bool:
    """Say whether the run that is under way has found or made the task complete, by its outputs alone."""
    return is_ours(task) and bool(remembered(task).get("is_complete"))


_outputs: ContextVar[dict[int, Outputs] | None] = ContextVar("superluigi_outputs", default=None)


class Outputs:
    """What `output()` of a task gives, once as it is and once flat; `own` is for what others find out of it."""

    __slots__ = ("nested", "own", "targets", "task")

    def __init__(self, task: luigi.Task, nested: Any) -> None:
        self.task = task  # held: its id would be free again
        self.nested = nested
        self.targets = [target for _, target in leaves(nested)]
        for target in self.targets:
            check_is_target(target, task)
        self.own: Any = None


@contextlib.contextmanager
def outputs_held() -> Iterator[None]:
    """Ask each task but once for its outputs until the block ends: while nothing runs, they do not change."""
    token = _outputs.set({})
    try:
        yield
    finally:
        _outputs.reset(token)


def output(task: luigi.Task) -> Any:
    """Give what `output()` gives.

    It is settled, and remembered, while the task is known to be complete, and within `outputs_held`.
    """
    held = _outputs.get()
    if held is not None:
        return _held(held, task).nested
    if not is_known_complete(task):
        return task.output()
    facts = remembered(task)
    if "output" not in facts:
        facts["output"] = task.output()
    return facts["output"]


def outputs(task: luigi.Task) -> Outputs:
    """Give what `output` gives, also flat; the same object within `outputs_held`."""
    held = _outputs.get()
    return Outputs(task, output(task)) if held is None else _held(held, task)


def targets(task: luigi.Task) -> list[Any]:
    """Give the leaves of what `output` gives."""
    return outputs(task).targets


def _held(held: dict[int, Outputs], task: luigi.Task) -> Outputs:
    known = held.get(id(task))
    if known is None:
        known = held[id(task)] = Outputs(task, task.output())
    return known


# The graph of tasks


def requires(task: luigi.Task) -> Any:
    """Give what `requires()` gives, an iterator as a list. Calls it once for a task of ours, and remembers."""
    if not is_ours(task):
        return task.requires()
    facts = remembered(task)
    if "requires" not in facts:
        nested = task.requires()
        facts["requires"] = list(nested) if isinstance(nested, Iterator) else nested
    return facts["requires"]


def required(task: luigi.Task) -> list[tuple[Role, luigi.Task]]:
    """Give the tasks that a task requires, with the role that each plays.

    What `_requires()` or `deps()` add where a class overrides them comes last, without a role.

    Raises:
        TaskTypeError: something that is required is no task.
    """
    facts = remembered(task) if is_ours(task) else {}
    if "required" not in facts:
        facts["required"] = _required(task)
    return facts["required"]  # type: ignore[no-any-return]


def _required(task: luigi.Task) -> list[tuple[Role, luigi.Task]]:
    found = list(leaves(requires(task)))
    cls = type(task)
    if cls.deps not in (luigi.Task.deps, deps) or cls._requires is not luigi.Task._requires:  # noqa: SLF001
        known = {id(upstream) for _, upstream in found}
        found += [((None,), extra) for extra in flatten(task.deps()) if id(extra) not in known]
    for _, upstream in found:
        check_is_task(upstream, task)
    return found


def deps(task: luigi.Task) -> list[luigi.Task]:
    """Give what Luigi's own `deps()` gives, of a `requires()` that is called once."""
    if type(task)._requires is not luigi.Task._requires:  # noqa: SLF001
        return list(flatten(task._requires()))  # noqa: SLF001
    return [upstream for _, upstream in leaves(requires(task))]


def check_is_task(required: object, by: luigi.Task | None = None, how: str = "requires() gives") -> None:
    """See that something which `requires()` gave, or `run()` yields, is a task.

    Raises:
        TaskTypeError: it is not.
    """
    if isinstance(required, luigi.Task):
        return
    of = how if by is None else f"{by}: {how}"
    if isinstance(required, luigi.Target):
        message = f"{of} the target {required!r}. Wrap it: External(path), or a task that makes it."
        raise TaskTypeError(message)
    message = f"{of} {required!r}, a {type(required).__name__}. Give tasks, alone or nested."
    raise TaskTypeError(message)


def check_is_target(target: object, task: object) -> None:
    """See that something which `output()` gave is a target, or has at least what Luigi asks of one.

    Raises:
        TaskTypeError: it is not.
    """
    if isinstance(target, luigi.Target):
        return
    if isinstance(target, str | os.PathLike) or not hasattr(target, "exists"):
        message = (
            f"{type(task).__name__}.output() gives {target!r}, a {type(target).__name__}. Give targets, alone or "
            "nested, such as LocalFileTarget(path)."
        )
        raise TaskTypeError(message)


def check_is_asked_of_task(given: object, function: str) -> luigi.Task:
    """See that a function of ours that asks something of a task was given one, and give it.

    Raises:
        TaskTypeError: it was given something else, such as the class.
    """
    if isinstance(given, luigi.Task):
        return given
    if isinstance(given, type) and issubclass(given, luigi.Task):
        message = f"{function}() was given the class {given.__name__}: give a task, {given.__name__}(...)."
    elif isinstance(given, list | tuple | set | frozenset):
        message = f"{function}() was given a {type(given).__name__} of {len(given)}: give one task at a time."
    else:
        message = f"{function}() was given {given!r}, a {type(given).__name__}: give a task."
    raise TaskTypeError(message)


def upstream_of(task: luigi.Task) -> list[luigi.Task]:
    """Give the tasks that a task requires directly."""
    return [upstream for _, upstream in required(task)]


def walk(roots: Iterable[Node], edges: Callable[[Node], Iterable[Node]]) -> dict[Node, tuple[Node, ...]]:
    """Give every node with what it leads to, in an order in which each comes after all that it leads to.

    Calls `edges` once per node.

    Raises:
        CycleError: nodes lead to each other in a circle.
    """
    finished: dict[Node, tuple[Node, ...]] = {}
    path: dict[Node, tuple[tuple[Node, ...], Iterator[Node]]] = {}
    for root in roots:
        if root in finished:
            continue
        _enter(root, path, edges)
        while path:
            node, (ahead, remaining) = next(reversed(path.items()))
            for following in remaining:
                if following in path:
                    circle = list(path)
                    raise CycleError([str(member) for member in circle[circle.index(following) :]])
                if following not in finished:
                    _enter(following, path, edges)
                    break
            else:
                finished[node] = ahead
                del path[node]
    return finished


def _enter(
    node: Node, path: dict[Node, tuple[tuple[Node, ...], Iterator[Node]]], edges: Callable[[Node], Iterable[Node]]
) -> None:
    ahead = tuple(edges(node))
    path[node] = (ahead, iter(ahead))
