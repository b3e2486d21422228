"""Which tasks are made to run although their outputs exist.

Nothing here runs a task. The invariant: forcing is a value of one run, made before it begins and kept nowhere else,
least of all on a task.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import luigi

from superluigi import dag, identity
from superluigi.errors import ConfigError, TaskFailedError, TaskTypeError, UnknownTaskError
from superluigi.failures import failure_of, remember
from superluigi.luigi_task import AnyTask

if TYPE_CHECKING:
    from superluigi.errors import TaskFailure

Tasks: TypeAlias = AnyTask | Sequence[AnyTask]
TaskClasses: TypeAlias = type[AnyTask] | str | Sequence[type[AnyTask] | str]


@dataclass(frozen=True)
class Forcing:
    """The tasks that one run makes again: the `named` ones, or everything that it meets."""

    named: frozenset[luigi.Task] = field(default_factory=frozenset)
    everything: bool = False

    def includes(self, task: luigi.Task) -> bool:
        """Say whether a task is to run although it is complete; a task without `run` never is."""
        return (self.everything or task in self.named) and not dag.is_external(task)


def plan_forcing(
    roots: Sequence[luigi.Task],
    *,
    force: bool = False,
    force_upstream: bool = False,
    force_upstream_to_task: Tasks | None = None,
    force_upstream_to_task_cls: TaskClasses | None = None,
    raise_exception: bool = False,
) -> Forcing:
    """Give which tasks to force; at most one of the four arguments may be set.

    Walks `requires()` only for the last two, which force the tasks that are named, the roots that need them, and all
    between. What a `requires()` raises leaves as it is with `raise_exception`.

    Raises:
        ConfigError: more than one argument is set.
        UnknownTaskError: a task or class is nowhere upstream of the roots.
        TaskTypeError: something else than tasks, classes or names of classes is given.
        TaskFailedError: a `requires()` fails, so that the tasks between cannot be told. Names each of them.
    """
    given = {
        "force": force,
        "force_upstream": force_upstream,
        "force_upstream_to_task": force_upstream_to_task is not None,
        "force_upstream_to_task_cls": force_upstream_to_task_cls is not None,
    }
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) > 1:
        message = f"{' and '.join(chosen)} are given together, but each says alone what to force. Give one of them."
        raise ConfigError(message)
    if force_upstream:
        return Forcing(everything=True)
    if force_upstream_to_task is not None:
        return _between(_graph(roots, raise_exception=raise_exception), roots, _tasks(force_upstream_to_task), [])
    if force_upstream_to_task_cls is not None:
        return _between(_graph(roots, raise_exception=raise_exception), roots, [], _classes(force_upstream_to_task_cls))
    return Forcing(frozenset(roots) if force else frozenset())


def _graph(roots: Sequence[luigi.Task], *, raise_exception: bool) -> dict[luigi.Task, tuple[luigi.Task, ...]]:
    failures: list[TaskFailure] = []
    failed: list[luigi.Task] = []

    def edges(task: luigi.Task) -> list[luigi.Task]:
        try:
            return dag.upstream_of(task)
        except TaskTypeError:
            raise
        except Exception as error:
            if raise_exception:
                raise
            failed.append(task)
            failures.append(failure_of(task, error, traceback.format_exc()))
            return []

    graph = dag.walk(roots, edges)
    if failures:
        is_remembered = remember(failed)
        told = TaskFailedError(failures, "What to force cannot be told.", is_remembered=is_remembered)
        raise told from failures[0].exception
    return graph


def _between(
    graph: dict[luigi.Task, tuple[luigi.Task, ...]],
    roots: Sequence[luigi.Task],
    tasks: list[luigi.Task],
    classes: list[type[luigi.Task] | str],
) -> Forcing:
    aims = {task: [member for member in graph if _is_same(member, task)] for task in tasks}
    aims_by_class = {task_cls: [member for member in graph if _is_of(member, task_cls)] for task_cls in classes}
    families = sorted({task.get_task_family() for task in graph if task not in roots})
    for task, found in aims.items():
        if not found:
            raise UnknownTaskError(str(task), ", ".join(map(str, roots)), families)
    for task_cls, found in aims_by_class.items():
        if not found:
            name = task_cls if isinstance(task_cls, str) else task_cls.__name__
            raise UnknownTaskError(name, ", ".join(map(str, roots)), families)
    forced = {member for found in [*aims.values(), *aims_by_class.values()] for member in found}
    for task, upstream in graph.items():  # each comes after all that it requires
        if any(required in forced for required in upstream):
            forced.add(task)
    return Forcing(frozenset(forced))


def _is_of(task: luigi.Task, task_cls: type[luigi.Task] | str) -> bool:
    if isinstance(task_cls, str):
        return task_cls in (task.get_task_family(), type(task).__name__)
    if isinstance(task, task_cls):
        return True
    # A class that was defined again in a notebook is another object of the same name.
    return (type(task).__module__, type(task).__qualname__) == (task_cls.__module__, task_cls.__qualname__)


def _is_same(task: luigi.Task, named: luigi.Task) -> bool:
    """Say whether a task is the one that is named, be that of a class that was defined again since."""
    return task == named or (identity.luigi_id(task) == identity.luigi_id(named) and _is_of(task, type(named)))


def _tasks(given: Tasks) -> list[luigi.Task]:
    tasks = list(given) if isinstance(given, list | tuple | set | frozenset) else [given]
    for task in tasks:
        if not isinstance(task, luigi.Task):
            message = (
                f"force_upstream_to_task is {task!r}, a {type(task).__name__}, but takes tasks. "
                "For all tasks of a class use force_upstream_to_task_cls."
            )
            raise TaskTypeError(message)
    return _some(tasks, "force_upstream_to_task")


def _classes(given: TaskClasses) -> list[type[luigi.Task] | str]:
    classes = list(given) if isinstance(given, list | tuple | set | frozenset) else [given]
    for task_cls in classes:
        if not isinstance(task_cls, str) and not (isinstance(task_cls, type) and issubclass(task_cls, luigi.Task)):
            message = (
                f"force_upstream_to_task_cls is {task_cls!r}, but takes task classes or their names. "
                "For single tasks use force_upstream_to_task."
            )
            raise TaskTypeError(message)
    return _some(classes, "force_upstream_to_task_cls")


def _some(given: list, name: str) -> list:  # type: ignore[type-arg]
    if not given:
        message = f"{name} is empty, and so names nothing to force. Name at least one task, or leave it out."
        raise ConfigError(message)
    return given
