"""The state of one run: what is forced, what was done, what failed and with which exception.

It lives here and nowhere else, least of all on a task. The invariant: whether a task need not run is decided in one
place, and what a run knows of a task ends with the run.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import luigi

from superluigi import dag
from superluigi.errors import TaskFailure, TaskTypeError, public_name
from superluigi.execution import own_target
from superluigi.outlook import Outlook
from superluigi.planning import Forcing
from superluigi.targets.foresight import foresight
from superluigi.targets.memory import Key, Memory, MemoryTarget, NoTarget, PathlessTarget
from superluigi.targets.metadata import REMOVED
from superluigi.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Run:
    """What is true of one run and of nothing else."""

    def __init__(self, forcing: Forcing, *, raise_exception: bool = False, single_flight: bool = False) -> None:
        self.run_id = uuid.uuid4().hex
        self.forcing = forcing
        self.raise_exception = raise_exception
        self.single_flight = single_flight
        self.memory = Memory()
        self.done: set[luigi.Task] = set()
        self.made_elsewhere: set[luigi.Task] = set()  # by other runs, since this one was planned
        self.spared: set[luigi.Task] = set()  # their outputs were cleaned up, and nothing in this run needs them
        self.yielded: dict[luigi.Task, set[luigi.Task]] = {}  # what was found to be required while a task ran
        self.failures: dict[luigi.Task, TaskFailure] = {}

    def as_seen_by(self, task: luigi.Task) -> Run:
        """Give what a task asks of the run where it runs elsewhere: which of those that it requires are complete.

        What fails there is raised here.
        """
        asked = {task, *(dag.upstream_of(task) if dag.is_ours(task) else []), *self.yielded.get(task, ())}
        forced = frozenset(member for member in asked - self.done if self.forcing.includes(member))
        seen = Run(Forcing(forced, everything=self.forcing.everything), single_flight=self.single_flight)
        seen.run_id = self.run_id
        seen.done = asked & self.done
        seen.spared = asked & self.spared
        return seen

    def keys_read_by(self, task: luigi.Task) -> list[Key]:
        """Give what tells the values that a task may ask for: those of what it requires, and of what that groups."""
        found: list[Key] = []
        seen: set[luigi.Task] = set()
        pending = [*(dag.upstream_of(task) if dag.is_ours(task) else task.deps()), *self.yielded.get(task, ())]
        while pending:
            required = pending.pop()
            if required not in seen:
                seen.add(required)
                found += keys_of(required, PathlessTarget)
                if type(required).complete is luigi.WrapperTask.complete:
                    pending += required.deps()
        return found

    def is_complete(self, task: luigi.Task) -> bool:
        """Say whether a task need not run: its own `complete()`, unless it is forced and was not run yet."""
        if task in self.spared:
            return True
        if self.forcing.includes(task) and task not in self.done:
            return False
        is_complete: bool = task.complete()
        if not is_complete and not dag.is_ours(task):
            _check_has_no_value(task)
        _know(task, is_complete=is_complete)
        return is_complete

    def exist(self, tasks: Sequence[luigi.Task]) -> dict[luigi.Task, bool]:
        """Say of many tasks whether they are complete, forced or not: another client may have run them."""
        with foresight():
            Outlook(self.forcing).ask(tasks)
            return {task: task in self.spared or task.complete() for task in tasks}

    def is_made(self, task: luigi.Task, readers: Collection[luigi.Task] = ()) -> bool:
        """Say, of a task whose turn it is, whether another run has made it since this one was planned.

        What other runs have made and cleaned up is not missed if all that read it are complete, too.
        """
        if self.forcing.includes(task) and task not in self.done:
            return False
        if task.complete():
            return True
        return bool(readers) and is_cleaned_up(task) and all(reader.complete() for reader in readers)

    def record_failure(self, task: luigi.Task, error: BaseException | None, text: str) -> None:
        """Keep why a task failed, until it succeeds."""
        self.failures[task] = TaskFailure.of(task, error, text)

    def record_success(self, task: luigi.Task) -> None:
        """Keep that a task ran; a failure before it was retried no longer counts."""
        self.done.add(task)
        self.failures.pop(task, None)
        _know(task, is_complete=True)

    def record_removal(self, task: luigi.Task) -> None:
        """Keep that a task that was complete no longer is."""
        _know(task, is_complete=False)


def _know(task: luigi.Task, *, is_complete: bool) -> None:
    if isinstance(task, Task) and not task.has_own_complete():
        facts = dag.remembered(task)
        facts["is_complete"] = is_complete
        facts.pop("output", None)


def keys_of(task: luigi.Task, kind: type[PathlessTarget] = MemoryTarget) -> list[Key]:
    """Give what tells the values that a task sets."""
    targets = [target for _, target in dag.leaves(dag.output(task))]
    return [target.key for target in targets if isinstance(target, kind) and target.key is not None]


def _check_has_no_value(task: luigi.Task) -> None:
    """See that what a plain task of Luigi gives can be found again.

    Raises:
        TaskTypeError: it gives a target that only a task of ours can own.
    """
    for _, target in dag.leaves(task.output()):
        if isinstance(target, PathlessTarget) and (target.key is None or isinstance(target, NoTarget)):
            kind = type(target).__name__
            named = "" if kind == "NoTarget" else f", or give it a name: {kind}('totals')"
            message = (
                f"{public_name(task)} is a plain luigi.Task, and its output a {kind}, which only a task of Super Luigi "
                f"can fill. Derive it from superluigi.Task{named}."
            )
            raise TaskTypeError(message)


def is_cleaned_up(task: luigi.Task) -> bool:
    """Say whether the outputs of a task were removed and their records stayed. One GET for each in S3."""
    own = [own_target(target) for _, target in dag.leaves(task.output())]
    records = [None if target is None else target.store.read_record() for target in own]
    return bool(records) and all(record is not None and REMOVED in record for record in records)
