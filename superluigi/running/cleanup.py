"""Which outputs of a run are short-lived, who still needs them, and when they go.

The invariant: nothing is removed while a task of the run that needs it has not succeeded, nor what the run itself was
asked for; and a removal that fails fails no run.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import luigi
from luigi.task_status import DONE

from superluigi import dag
from superluigi.errors import public_name
from superluigi.running.single_flight import lease_of
from superluigi.running.state import is_cleaned_up
from superluigi.tasks import TaskWithCleanup

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from superluigi.running.state import Run

_log = logging.getLogger("superluigi")


class Cleanup:
    """The short-lived tasks of one run. A group (`luigi.WrapperTask`) hands on what it groups to those that need it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._asked_for: set[luigi.Task] = set()
        self._needed_by: dict[luigi.Task, set[luigi.Task]] = {}
        self._needs: dict[luigi.Task, set[luigi.Task]] = {}  # the same the other way round

    # Before tasks run

    def ask_for(self, roots: Sequence[luigi.Task]) -> None:
        """Note what the run is to leave."""
        self._asked_for.update(roots)

    def may_be_spared(self, task: luigi.Task) -> bool:
        """Say whether the outputs of a task were cleaned up by an earlier run, so that only who needs them misses them.

        Costs what `complete()` costs, and a GET for each output in S3 where they are gone.
        """
        if not isinstance(task, TaskWithCleanup) or task in self._asked_for or self._run.forcing.includes(task):
            return False
        try:
            return not self._run.is_complete(task) and is_cleaned_up(task)
        except Exception:  # noqa: BLE001  (it fails again where the task is scheduled, and is reported there)
            return False

    def needed(
        self, tasks: Collection[luigi.Task], requirements: Mapping[luigi.Task, Collection[luigi.Task]]
    ) -> list[luigi.Task]:
        """Give those of the tasks that a task which is to run reads; a group alone reads nothing."""
        readers = [task for task in requirements if not _is_group(task)] if tasks else []
        read = {found for reader in readers for found in _short_lived(requirements[reader])}
        return [task for task in tasks if task in read]

    def expect(self, requirements: Mapping[luigi.Task, Collection[luigi.Task]]) -> None:
        """Note which tasks that are to run need short-lived ones."""
        if not TaskWithCleanup.__subclasses__():
            return
        for task, upstream in requirements.items():
            if task not in self._run.done:
                for found in _short_lived(upstream):
                    self._needed_by.setdefault(found, set()).add(task)
                    self._needs.setdefault(task, set()).add(found)

    # While tasks run

    def readers(self, task: luigi.Task) -> tuple[luigi.Task, ...]:
        """Give the tasks that still need a short-lived one."""
        return tuple(self._needed_by.get(task, ()))

    def succeeded(self, task: luigi.Task) -> None:
        """Clean up what only this task has still needed."""
        for found in self._needs.pop(task, ()):
            needing = self._needed_by[found]
            needing.discard(task)
            if not needing:
                del self._needed_by[found]
                self._clean_up(found)

    def end(self, statuses_there: Callable[[Collection[luigi.Task]], Mapping[luigi.Task, str]]) -> None:
        """Clean up what was needed by tasks that another client of the scheduler has run."""
        statuses = statuses_there({task for needing in self._needed_by.values() for task in needing})
        for found, needing in self._needed_by.items():
            if all(statuses[task] == DONE for task in needing):
                self._clean_up(found)

    def _clean_up(self, task: luigi.Task) -> None:
        if task in self._asked_for or any(str(target) in self._promised for _, target in dag.leaves(task.output())):
            return
        try:
            self._remove(task)
        except Exception as error:  # noqa: BLE001  (the results of the run are what they are)
            _log.warning(
                "%s could not be cleaned up, so its outputs stay: %s: %s. The run is not affected. "
                "See to the cause, then call cleanup() of the task, or remove them by hand.",
                public_name(task),
                type(error).__name__,
                error,
            )
        self._run.record_removal(task)

    def _remove(self, task: Any) -> None:
        lease = lease_of(task) if self._run.single_flight else None
        if lease is None:
            task.cleanup()
        elif held := lease.take():  # else another run is making it again, and will clean up
            try:
                task.cleanup()
            finally:
                held.release()

    @functools.cached_property
    def _promised(self) -> set[str]:
        """The outputs of what was asked for; a group may give as its own those of the tasks that it groups."""
        return {str(target) for root in self._asked_for for _, target in dag.leaves(root.output())}


def _short_lived(tasks: Iterable[luigi.Task]) -> set[luigi.Task]:
    """Give the short-lived ones of these tasks, and of what groups among them group."""
    found: set[luigi.Task] = set()
    seen: set[luigi.Task] = set()
    pending = list(tasks)
    while pending:
        task = pending.pop()
        if isinstance(task, TaskWithCleanup):
            found.add(task)
        elif _is_group(task) and task not in seen:
            seen.add(task)
            pending.extend(dag.upstream_of(task))
    return found


def _is_group(task: luigi.Task) -> bool:
    return type(task).complete is luigi.WrapperTask.complete
