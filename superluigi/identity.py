"""Which task a task is: one id over the task and everything that it requires.

The id is the same in every process, on every machine and Python. The invariant: it is computed without
recursion and remembered only until a task class is defined or changed, so that a class that is defined anew in a
notebook changes the ids of all that is downstream, although Luigi keeps the instances.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from typing import TYPE_CHECKING, Any

from superluigi import dag
from superluigi.errors import InvalidNameError
from superluigi.source import code_fingerprint

if TYPE_CHECKING:
    import luigi

_LENGTH = 32
_line = json.JSONEncoder().encode
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode


def task_id(task: luigi.Task) -> str:
    """Give 32 hex characters over family, significant public parameters, `__version__`, and the ids upstream.

    A plain Luigi task upstream counts with Luigi's own id. Calls `requires()` once per task upstream, and not
    again until `dag.forget` is called or a task class is defined.

    Raises:
        CycleError: tasks require each other in a circle.
    """
    known = _remembered(task)
    if known is None:
        broken = compute_all(task)
        if broken:
            raise broken[task]
        known = _remembered(task)
        assert known is not None
    return known


def compute_all(task: luigi.Task) -> dict[luigi.Task, Exception]:
    """Compute and remember the ids of a task of ours and of all upstream; give the tasks that cannot have one, and why.

    Those are the tasks whose own `requires()` fails, and all that is downstream of one.

    Raises:
        CycleError: tasks require each other in a circle.
    """
    roles: dict[_Node, list[tuple[dag.Role, luigi.Task]]] = {}
    broken: dict[_Node, Exception] = {}

    def edges(node: _Node) -> list[_Node]:
        if not dag.is_ours(node.task) or _remembered(node.task) is not None:
            return []
        try:
            roles[node] = dag.required(node.task)
        except Exception as error:  # noqa: BLE001  (the user's requires() may fail in whatever way)
            broken[node] = error
            return []
        return [_Node(upstream) for _, upstream in roles[node]]

    ids: dict[_Node, str] = {}
    for node, upstream in dag.walk([_Node(task)], edges).items():
        if node in roles:
            error = next((broken[required] for required in upstream if required in broken), None)
            if error is not None:
                broken[node] = error
                continue
            ids[node] = _compute(node.task, [(role, ids[_Node(required)]) for role, required in roles[node]])
            remember(node.task, ids[node])
        elif node not in broken:
            ids[node] = _remembered(node.task) or str(node.task.task_id)
    return {node.task: error for node, error in broken.items()}


def remember(task: luigi.Task, value: str) -> None:
    """Take this as the task's id until the next `dag.forget`."""
    dag.remembered(task)["id"] = value


def is_known(task: luigi.Task) -> bool:
    """Say whether the task's id is remembered, so that asking for it calls no `requires()`."""
    return _remembered(task) is not None


def _remembered(task: luigi.Task) -> str | None:
    return dag.remembered(task).get("id")


def _compute(task: luigi.Task, upstream: list[tuple[dag.Role, str]]) -> str:
    facts: dict[str, Any] = {
        "family": task.get_task_family(),
        "params": task.to_str_params(only_significant=True, only_public=True),
        "requires": sorted(upstream, key=_line),
    }
    if version_of(type(task)) is not None:
        facts["version"] = version_of(type(task))
    if getattr(type(task), "track_code", False):
        facts["code"] = code_of(type(task))
    return hashlib.sha256(_canonical(facts).encode("ascii")).hexdigest()[:_LENGTH]


class _Node:
    """A task as a node of the walk: the instance itself, as two classes of one name may be equal to Luigi."""

    __slots__ = ("task",)

    def __init__(self, task: luigi.Task) -> None:
        self.task = task

    def __hash__(self) -> int:
        return hash(self.task)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Node) and self.task == other.task

    def __str__(self) -> str:
        return str(self.task)


def luigi_id(task: Any) -> str:
    """Give the id that Luigi itself gives to a task, ours or plain: over its family and parameters alone."""
    return str(task.luigi_task_id if dag.is_ours(task) else task.task_id)


def bearer_of(task: Any) -> tuple[str, str, str]:
    """Give what tells a task from all others in a run, without asking for its requirements."""
    task_cls = type(task)
    is_spawned = task_cls.__module__ == "__mp_main__"  # the program, in a process that was spawned
    return "__main__" if is_spawned else task_cls.__module__, task_cls.__qualname__, luigi_id(task)


def version_of(task_cls: type[luigi.Task]) -> str | None:
    """Give the class's `__version__` as text, None if it has none."""
    version = getattr(task_cls, "__version__", None)
    return None if version is None else str(version)


_told: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def code_of(task_cls: type[luigi.Task]) -> str | None:
    """Give the fingerprint of a class's code; found out once per class and run. None if its source is gone."""
    facts = dag.remembered(task_cls)
    if "code" not in facts:
        facts["code"] = code_fingerprint(task_cls) or _told.get(task_cls)
    known: str | None = facts["code"]
    return known


def tell_code(task_cls: type[luigi.Task], code: str | None) -> None:
    """Take what another process has found of a class, for one that has travelled here without its source."""
    if code is not None:
        _told[task_cls] = code
        dag.remembered(task_cls).pop("code", None)


def salted_path(template: str, task: Any) -> str:
    """Give a path in which `{salt}` is the task's id: another parameter, version or requirement, another path.

    Raises:
        InvalidNameError: there is no `{salt}` in it.
        TaskTypeError: something else than a task is given, such as its class.
    """
    dag.check_is_asked_of_task(task, "salted_path")
    if "{salt}" not in template:
        raise InvalidNameError(
            template, "holds no {salt}", "Write it where the id is to stand: 'data/model-{salt}.pkl'."
        )
    return template.replace("{salt}", str(task.task_id))
