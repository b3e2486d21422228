"""Which tasks are made to run although their outputs exist, and how the others are asked whether they do.

Nothing here runs a task. The invariant: forcing is a value of one run, made before it begins and kept nowhere
else, least of all on a task; and whether a task is complete is decided by its own `complete()` alone.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import luigi

from superluigi import dag
from superluigi.errors import ConfigError, TaskFailedError, TaskFailure, TaskTypeError, UnknownTaskError
from superluigi.targets.s3 import ask_together, is_remote
from superluigi.tasks import Task

if TYPE_CHECKING:
    from superluigi.targets import Target

TaskNames = luigi.Task | Sequence[luigi.Task]
TaskClasses = type[luigi.Task] | str | Sequence[type[luigi.Task] | str]

_MAX_AHEAD = 1000  # outputs upstream of the tasks that have to be asked about


@dataclass(frozen=True)
class Forcing:
    """The tasks that one run makes again: the `named` ones, or everything that it meets."""

    named: frozenset[luigi.Task] = field(default_factory=frozenset)
    everything: bool = False

    def includes(self, task: luigi.Task) -> bool:
        """Say whether a task is to run although it is complete; a task without `run` never is."""
        run: object = task.run
        return (self.everything or task in self.named) and run is not None and run is not NotImplemented


def plan_forcing(
    roots: Sequence[luigi.Task],
    *,
    force: bool,
    force_upstream: bool,
    force_upstream_to_task: TaskNames | None,
    force_upstream_to_task_cls: TaskClasses | None,
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


class Outlook:
    """Asks about the outputs of many tasks at once, before each `complete()` does; for use within `foresight`.

    For a graph that is looked through level by level from its roots. As long as everything is missing, each question
    reaches twice as far upstream as the last, so that a chain of tasks is not asked about link by link.
    """

    def __init__(self, forcing: Forcing) -> None:
        self._forcing = forcing
        self._asked: set[luigi.Task] = set()
        self._levels = 1

    def ask(self, level: Iterable[luigi.Task]) -> None:
        """Find out what `complete()` of these tasks will ask, but for those that were found out earlier.

        Costs what `S3ObjectTarget.exists` costs for each, or one listing for up to a thousand; nothing for tasks
        that are forced, or have a `complete()` of their own, or no output in S3.
        """
        frontier = [task for task in level if task not in self._asked]
        outputs: list[Any] = []
        guards: list[Target] = []
        for _ in range(self._levels if frontier else 0):
            remote = self._collect(frontier, outputs, guards)
            if not remote or len(outputs) > _MAX_AHEAD:
                break
            frontier = [upstream for task in remote if dag.is_ours(task) for upstream in _upstream_of(task)]
        if outputs:
            self._levels = min(2 * self._levels, _MAX_AHEAD)
            ask_together(outputs, guards)

    def _collect(self, tasks: list[luigi.Task], outputs: list[Any], guards: list[Target]) -> list[luigi.Task]:
        """Add what the tasks will ask; give the tasks with outputs in S3.

        If the first task of a class has none, the class is taken to have none: it costs an answer, not its truth.
        """
        remote: list[luigi.Task] = []
        is_remote_cls: dict[type, bool] = {}
        pending = deque(tasks)
        while pending:
            task = pending.popleft()
            if task in self._asked or self._forcing.includes(task):
                continue
            self._asked.add(task)
            cls = type(task)
            if cls.complete is luigi.WrapperTask.complete:
                pending.extend(_upstream_of(task))
            elif cls.complete in (luigi.Task.complete, Task.complete) and is_remote_cls.get(cls, True):
                own, guard = _asked_by(task)
                is_remote_cls[cls] = any(map(is_remote, own))
                if is_remote_cls[cls]:
                    remote.append(task)
                    outputs += own
                    guards += [] if guard is None else [guard]
        return remote


def _asked_by(task: luigi.Task) -> tuple[list[Any], Target | None]:
    try:
        outputs = [target for _, target in dag.leaves(task.output())]
        return outputs, task.guard_of(outputs) if isinstance(task, Task) else None
    except Exception:  # noqa: BLE001  (the user's output() fails again where it is asked for, and is reported there)
        return [], None


def _upstream_of(task: luigi.Task) -> list[luigi.Task]:
    try:
        return dag.upstream_of(task)
    except Exception:  # noqa: BLE001  (as above, of requires())
        return []


def _graph(roots: Sequence[luigi.Task], *, raise_exception: bool) -> dict[luigi.Task, tuple[luigi.Task, ...]]:
    failures: list[TaskFailure] = []

    def edges(task: luigi.Task) -> list[luigi.Task]:
        try:
            return dag.upstream_of(task)
        except TaskTypeError:
            raise
        except Exception as error:
            if raise_exception:
                raise
            failures.append(TaskFailure.of(task, error, traceback.format_exc()))
            return []

    graph = dag.walk(roots, edges)
    if failures:
        raise TaskFailedError(failures, "What to force cannot be told.") from failures[0].exception
    return graph


def _between(
    graph: dict[luigi.Task, tuple[luigi.Task, ...]],
    roots: Sequence[luigi.Task],
    tasks: list[luigi.Task],
    classes: list[type[luigi.Task] | str],
) -> Forcing:
    aims = {task: [member for member in graph if member == task] for task in tasks}
    aims_by_class = {task_cls: [member for member in graph if _is_of(member, task_cls)] for task_cls in classes}
    families = sorted({task.get_task_family() for task in graph})
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


def _tasks(given: TaskNames) -> list[luigi.Task]:
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
