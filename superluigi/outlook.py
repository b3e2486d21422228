"""How many tasks are asked at once whether they are complete, before each is asked by itself.

The invariant: whether a task is complete is decided by its own `complete()` alone; what is found out here only spares
it a request.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import luigi

from superluigi import dag
from superluigi.targets.s3 import ask_together, is_remote
from superluigi.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from superluigi.forcing import Forcing
    from superluigi.targets import Target

_MAX_AHEAD = 1000  # outputs upstream of the tasks that have to be asked about


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
            if dag.is_group(cls):
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
