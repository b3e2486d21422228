"""What a task's `output()` gives: targets that are the task's own, or others in their place.

Nothing is read or written. The invariant: a value has a place of its own among all of a run, whoever calls `output()`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import luigi

from superluigi import dag, identity
from superluigi.errors import TaskTypeError
from superluigi.targets.memory import PathlessTarget

if TYPE_CHECKING:
    from collections.abc import Callable

# The one task that writes elsewhere, and what gives its targets there for those of its `output()`.
_redirection: ContextVar[tuple[luigi.Task, Callable[[Any], Any]] | None]
_redirection = ContextVar("superluigi_redirection", default=None)


@contextlib.contextmanager
def redirected(task: luigi.Task, function: Callable[[Any], Any]) -> Iterator[None]:
    """Let one task write to other targets while the block runs: those that `function` gives for its `output()`.

    They are also what its `run` finds in `self.output()`. What `function` gave it is asked for again, where a class
    calls `super().output()`, and leaves as it is.
    """
    token = _redirection.set((task, function))
    try:
        yield
    finally:
        _redirection.reset(token)


def as_redirected(task: Any, nested: Any) -> Any:
    """Give what stands in the place of the outputs of a task; these themselves, where it writes nowhere else."""
    redirection = _redirection.get()
    return nested if redirection is None or redirection[0] is not task else redirection[1](nested)


def is_redirected(task: Any) -> bool:
    """Say whether a task writes to other targets than its own."""
    redirection = _redirection.get()
    return redirection is not None and redirection[0] is task


def wrap_output(cls: Any) -> None:
    """Let the `output` of a class of tasks give targets that are bound, or those in their place."""
    function = inspect.getattr_static(cls, "output")
    is_wrapped = getattr(function, "__superluigi_wrapped__", None) is function
    if function is luigi.Task.output or is_wrapped or not inspect.isfunction(function):
        return

    @functools.wraps(function)
    def output(self: Any, *args: Any, **kwargs: Any) -> Any:
        return as_redirected(self, _bound(self, function.__qualname__, function(self, *args, **kwargs)))

    output.__superluigi_wrapped__ = output  # type: ignore[attr-defined]
    type.__setattr__(cls, "output", output)


def _bound(task: Any, function: str, nested: Any) -> Any:
    """Give the outputs of a task, those without a path as the task's own; one of another task stays that one's.

    Raises:
        TaskTypeError: several of them are in one set, where nothing tells one from the other.
    """
    if isinstance(nested, luigi.Target) and not isinstance(nested, PathlessTarget):
        return nested
    nested = dag.map_nested(lambda leaf: leaf, nested) if _has_iterator(nested) else nested
    roles = {id(leaf): role for role, leaf in dag.leaves(nested) if _is_unbound(leaf)}
    if not roles:
        return nested
    if len(set(roles.values())) < len(roles):
        message = (
            f"{type(task).__name__}.output() gives several targets without a path in one set, where nothing tells one "
            "from the other. Give a list or a dict, or names: MemoryTarget('totals')."
        )
        raise TaskTypeError(message)
    bearer = identity.bearer_of(task)  # with the function: what super().output() gives has roles of its own
    return dag.map_nested(
        lambda leaf: leaf.bound((*bearer, (function, roles[id(leaf)]))) if _is_unbound(leaf) else leaf, nested
    )


def _is_unbound(leaf: Any) -> bool:
    return isinstance(leaf, PathlessTarget) and not leaf.is_bound()


def _has_iterator(nested: Any) -> bool:
    """Say whether something in a nested value can be looked through but once."""
    if isinstance(nested, Mapping):
        return any(map(_has_iterator, nested.values()))
    if isinstance(nested, list | tuple | set | frozenset):
        return any(map(_has_iterator, nested))
    return isinstance(nested, Iterator)
