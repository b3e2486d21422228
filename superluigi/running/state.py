"""The state of one run: what is forced, what was done, what failed and with which exception.

It lives here and nowhere else, least of all on a task. The invariant: whether a task need not run is decided in one
place, and what a run knows of a task ends with the run.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from superluigi import dag
from superluigi.errors import TaskTypeError, public_name
from superluigi.failures import failure_of
from superluigi.forcing import Forcing
from superluigi.outlook import Outlook
from superluigi.planning import make_plan
from superluigi.plans import Verdict
from superluigi.staleness import is_cleaned_up
from superluigi.targets.foresight import foresight
from superluigi.targets.memory import Key, Memory, MemoryTarget, NoTarget, PathlessTarget, origin_of
from superluigi.tasks import Task, TaskWithCleanup
from superluigi.unsettled import Unsettled

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import luigi

    from superluigi.errors import TaskFailure
    from superluigi.failures import Circumstances
    from superluigi.plans import Plan


class Run:
    """What is true of one run and of nothing else."""

    def __init__(
        self,
        forcing: Forcing,
        *,
        plan: Plan | None = None,
        raise_exception: bool = False,
        single_flight: bool = False,
    ) -> None:
        self.run_id = uuid.uuid4().hex
        self.forcing = forcing
        self.plan = plan  # where the run goes by one: with `rerun_stale`
        self.raise_exception = raise_exception
        self.single_flight = single_flight
        self.memory = Memory()
        self.done: set[luigi.Task] = set()
        self.found_made: set[luigi.Task] = set()  # when it was their turn: other runs made them, or nothing had changed
        self.spared: set[luigi.Task] = set()  # their outputs were cleaned up, and nothing in this run needs them
        self.requirements: dict[luigi.Task, tuple[luigi.Task, ...]] = {}  # of complete ones none
        self.yielded: dict[luigi.Task, set[luigi.Task]] = {}  # what was found to be required while a task ran
        self.failures: dict[luigi.Task, TaskFailure] = {}
        self.unsettled: Unsettled | None = Unsettled()  # None where another process keeps it

    def begin(self) -> None:
        """Keep, before anything runs, what a later run must know if this one breaks off, and let go what is settled.

        Raises:
            StorageError: it cannot be written.
        """
        if self.plan is not None and self.unsettled is not None:
            self._settle(self.plan)
            self.unsettled.remove_old(but=self.plan.before)

    def _settle(self, plan: Plan) -> None:
        if self.unsettled is not None:
            self.unsettled.keep(plan.before)
            for task in plan.settled:
                self.unsettled.forget(task)

    def as_seen_by(self, task: luigi.Task, readers: Iterable[luigi.Task] = ()) -> Run:
        """Give what a task asks of the run where it runs elsewhere: which of those that it requires are complete.

        And of its `readers`, as `is_made` takes them, what is to become of them.
        What fails there is raised here.
        """
        upstream = dag.upstream_of(task) if dag.is_ours(task) else []
        asked = {task, *upstream, *self.yielded.get(task, ()), *readers}
        forced = frozenset(member for member in asked - self.done if self.forcing.includes(member))
        forcing = Forcing(forced, everything=self.forcing.everything)
        plan = None if self.plan is None else self.plan.part(asked)
        seen = Run(forcing, plan=plan, single_flight=self.single_flight)
        seen.run_id = self.run_id
        seen.done = asked & self.done
        seen.spared = asked & self.spared
        seen.unsettled = None
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
                keys = keys_of(required, PathlessTarget)
                found += [*keys, *dict.fromkeys(origin_of(key[:-1]) for key in keys)]
                if dag.hands_on(required):
                    pending += required.deps()
        return found

    def is_complete(self, task: luigi.Task) -> bool:
        """Say whether a task need not run: its own `complete()`, unless it is forced and was not run yet.

        With a plan, what it says; what a task has yielded is planned now.
        """
        if self.plan is not None and task not in self.plan and task not in self.done:
            further = make_plan([task], self.forcing, rerun_stale=True, known=self._known)
            self._settle(further)
            self.plan = self.plan.joined(further)
        verdict = self._verdict(task)
        if task in self.spared or verdict is Verdict.SKIP:
            return True
        if verdict is not None or (self.forcing.includes(task) and task not in self.done):
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
            return {task: self._is_spared(task) or task.complete() for task in tasks}

    def _is_spared(self, task: luigi.Task) -> bool:
        return task in self.spared or self._verdict(task) is Verdict.SKIP

    def _known(self, task: luigi.Task) -> Verdict | None:
        return Verdict.SKIP if task in self.done else self._verdict(task)

    def _verdict(self, task: luigi.Task) -> Verdict | None:
        """Give what the plan says of a task that has not run yet."""
        if self.plan is None or task in self.done or task not in self.plan:
            return None
        return self.plan[task].verdict

    def is_decided_late(self, task: luigi.Task) -> bool:
        """Say whether it is to be asked, when it is the turn of a task, if it has to run at all."""
        return self.single_flight or self._verdict(task) is Verdict.UNKNOWN

    def is_made(self, task: luigi.Task, readers: Collection[luigi.Task] = ()) -> bool:
        """Say, of a task whose turn it is, that it need not run: it is complete, and as what is upstream is by now.

        Another run may have made it since this one was planned; what other runs have made and cleaned up is not missed
        if all that read it are complete, too.
        """
        if self.forcing.includes(task) and task not in self.done:
            return False
        if not task.complete() and not (readers and is_cleaned_up(task) and all(map(self._is_served, readers))):
            return False
        return self.plan is None or self.plan.is_fresh(task)

    def _is_served(self, reader: luigi.Task) -> bool:
        """Say whether a task has read what it needs; one that was cleaned up itself has, unless it is to be made again.

        Who is forced, or out of date, has yet to read.
        """
        if self.forcing.includes(reader) and reader not in self.done:
            return False
        if not reader.complete():
            was_cleaned_up = isinstance(reader, TaskWithCleanup) and is_cleaned_up(reader)
            if not was_cleaned_up or self._verdict(reader) is Verdict.RUN:
                return False
        return self.plan is None or self.plan.is_fresh(reader)

    def record_failure(
        self, task: luigi.Task, error: BaseException | None, text: str, circumstances: Circumstances | None = None
    ) -> None:
        """Keep why a task failed, until it succeeds."""
        self.failures[task] = failure_of(task, error, text, circumstances)

    def record_success(self, task: luigi.Task) -> None:
        """Keep that a task ran; a failure before it was retried no longer counts."""
        self.done.add(task)
        self.failures.pop(task, None)
        if self.unsettled is not None:
            self.unsettled.forget(task)
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
