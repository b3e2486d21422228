"""Which outputs of a run are short-lived, who still needs them, and when they go.

The invariant: nothing is removed while a task of the run that needs it has not succeeded, nor what the run itself was
asked for; and a removal that fails fails no run.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from luigi.task_status import DONE

from superluigi import dag
from superluigi.errors import public_name
from superluigi.running.single_flight import lease_of
from superluigi.staleness import is_cleaned_up
from superluigi.targets.memory import PathlessTarget
from superluigi.tasks import TaskWithCleanup

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    import luigi

    from superluigi.running.state import Run

_log = logging.getLogger("superluigi")


class Cleanup:
    """The short-lived tasks of one run.

    A group (`luigi.WrapperTask`), or a task that gives as its own what it requires, hands it on to those that need it.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._asked_for: set[luigi.Task] = set()
        self._read: set[luigi.Task] = set()  # by tasks that are to run, and are no groups
        self._candidates: dict[luigi.Task, None] = {}  # were cleaned up by an earlier run, and nobody reads them so far
        self._needed_by: dict[luigi.Task, set[luigi.Task]] = {}
        self._needs: dict[luigi.Task, set[luigi.Task]] = {}  # the same the other way round
        self._hands_on: dict[luigi.Task, bool] = {}

    # Before tasks run

    def ask_for(self, roots: Sequence[luigi.Task]) -> None:
        """Note what the run is to leave."""
        self._asked_for.update(roots)

    def spares(self, task: luigi.Task) -> bool:
        """Say whether a task need not be made so far: an earlier run has cleaned it up, and nobody is known to read it.

        Costs what `complete()` costs, and a GET for each output in S3 where they are gone.
        """
        is_short_lived = isinstance(task, TaskWithCleanup) and task not in self._asked_for
        if not is_short_lived or task in self._read or self._run.forcing.includes(task):
            return False
        try:
            is_spared = task in self._run.spared or (not self._run.is_complete(task) and is_cleaned_up(task))
        except Exception:  # noqa: BLE001  (it fails again where the task is scheduled, and is reported there)
            return False
        if is_spared:
            self._candidates[task] = None
        return is_spared

    def take_spared(self) -> list[luigi.Task]:
        """Give those that nobody reads after all; they count as complete in this run."""
        spared = list(self._candidates)
        self._candidates.clear()
        self._run.spared.update(spared)
        return spared

    def is_needed(self, by: luigi.Task | None, upstream: Collection[luigi.Task]) -> list[luigi.Task]:
        """Note what a task that is to run reads; None for one whose `run` yields it. Give what was spared till now."""
        if not TaskWithCleanup.__subclasses__():
            return []
        found = self._short_lived(upstream)
        if by is not None:
            for required in found:
                self._needed_by.setdefault(required, set()).add(by)
                self._needs.setdefault(by, set()).add(required)
        if by is not None and self._is_handing_on(by):
            return []
        self._read |= found
        self._run.spared -= found
        revoked = [required for required in found if required in self._candidates]
        for required in revoked:
            del self._candidates[required]
        return revoked

    def _short_lived(self, tasks: Iterable[luigi.Task]) -> set[luigi.Task]:
        """Give the short-lived ones of these tasks, and of what is handed on by others among them."""
        found: set[luigi.Task] = set()
        seen: set[luigi.Task] = set()
        pending = list(tasks)
        while pending:
            task = pending.pop()
            if task in seen:
                continue
            seen.add(task)
            if isinstance(task, TaskWithCleanup):
                found.add(task)
            if self._is_handing_on(task):
                pending.extend(_known_upstream(task))
        return found

    def _is_handing_on(self, task: luigi.Task) -> bool:
        if task not in self._hands_on:
            self._hands_on[task] = dag.hands_on(task) or _gives_what_it_requires(task)
        return self._hands_on[task]

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
        try:
            if task in self._asked_for or self._promised & _names(task):
                return
            self._remove(task)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  (the results of the run are what they are)
            _log.warning(
                "%s could not be cleaned up: %s: %s. The run is not affected, but outputs may be left. "
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
    def _promised(self) -> set[object]:
        """The outputs of what was asked for; a group may give as its own those of the tasks that it groups."""
        return {name for root in self._asked_for for name in _names(root)}


def _gives_what_it_requires(task: luigi.Task) -> bool:
    upstream = [required for required in _known_upstream(task) if isinstance(required, TaskWithCleanup)]
    return bool(upstream) and any(_names(task) & _names(required) for required in upstream)


def _known_upstream(task: luigi.Task) -> list[luigi.Task]:
    """Give what a task requires, nothing if its `requires()` fails: that is reported where the task is scheduled.

    Of a task of ours it has been asked by now, as its id was.
    """
    if dag.is_ours(task):
        return dag.upstream_of(task) if "required" in dag.remembered(task) else []
    try:
        return dag.upstream_of(task)
    except Exception:  # noqa: BLE001  (whatever the user's code raises)
        return []


def _names(task: luigi.Task) -> set[object]:
    """Give what tells the outputs of a task from all others."""
    targets = [target for _, target in dag.leaves(task.output())]
    return {target.key if isinstance(target, PathlessTarget) else str(target) for target in targets}
