"""The state of one run: what is forced, what was done, what failed and with which exception.

It lives here and nowhere else, least of all on a task. The invariant: whether a task need not run is decided in one
place, and what a run knows of a task ends with the run.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from superluigi import dag
from superluigi.errors import TaskFailure
from superluigi.planning import Forcing, Outlook
from superluigi.targets.foresight import foresight
from superluigi.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    import luigi


class Run:
    """What is true of one run and of nothing else."""

    def __init__(self, forcing: Forcing, *, raise_exception: bool = False) -> None:
        self.run_id = uuid.uuid4().hex
        self.forcing = forcing
        self.raise_exception = raise_exception
        self.done: set[luigi.Task] = set()
        self.failures: dict[luigi.Task, TaskFailure] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what a task elsewhere does not ask: failures, and of what was done and forced all but the rest.

        What fails there is raised here.
        """
        forcing, done = self.forcing, self.done
        if not forcing.everything:
            forcing, done = Forcing(forcing.named - done), set()
        return {**self.__dict__, "forcing": forcing, "done": done, "failures": {}, "raise_exception": False}

    def is_complete(self, task: luigi.Task) -> bool:
        """Say whether a task need not run: its own `complete()`, unless it is forced and was not run yet."""
        if self.forcing.includes(task) and task not in self.done:
            return False
        is_complete: bool = task.complete()
        _know(task, is_complete=is_complete)
        return is_complete

    def exist(self, tasks: Sequence[luigi.Task]) -> dict[luigi.Task, bool]:
        """Say of many tasks whether they are complete, forced or not: another client may have run them."""
        with foresight():
            Outlook(self.forcing).ask(tasks)
            return {task: task.complete() for task in tasks}

    def record_failure(self, task: luigi.Task, error: BaseException | None, text: str) -> None:
        """Keep why a task failed, until it succeeds."""
        self.failures[task] = TaskFailure.of(task, error, text)

    def record_success(self, task: luigi.Task) -> None:
        """Keep that a task ran; a failure before it was retried no longer counts."""
        self.done.add(task)
        self.failures.pop(task, None)
        _know(task, is_complete=True)


def _know(task: luigi.Task, *, is_complete: bool) -> None:
    if isinstance(task, Task) and not task.has_own_complete():
        facts = dag.remembered(task)
        facts["is_complete"] = is_complete
        facts.pop("output", None)
