"""How far a run is: counted as its tasks start and end, and told to who wants to know.

The worker says what happens, here it becomes events. Whoever follows the run receives the same ones: bars, the user's
callable, the account for a report, OpenLineage.
The invariant: whatever a receiver does, the run goes on as without it; receivers are told one event at a time, and
where there is none, a task costs some dictionary look-ups.
"""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from luigi.task_status import DONE, PENDING

from superluigi.errors import public_name
from superluigi.running.durations import Clock, Durations, kind_of
from superluigi.running.events import (
    ProgressEvent,
    RunEnded,
    RunStarted,
    Tally,
    TaskEnded,
    TaskEvent,
    TaskPaused,
    TasksAdded,
    TaskStarted,
    TaskStatus,
    TransferEvent,
)
from superluigi.targets.metadata import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import luigi

_log = logging.getLogger("superluigi")

_ESTIMATE_S = 0.1  # between two estimates of the time left
_LOST = "The pool was lost with it. It is run again."

Receiver: TypeAlias = "Callable[[ProgressEvent], object]"
_TaskEvent = TypeVar("_TaskEvent", bound=TaskEvent)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a task runs: the machine, the process, and, on Dask, the address of the worker."""

    host: str = ""
    process_id: int | None = None
    worker: str = ""

    @classmethod
    def here(cls) -> Site:
        """Give this process."""
        return cls(socket.gethostname(), os.getpid(), _dask_worker())


def _dask_worker() -> str:
    if (distributed := sys.modules.get("distributed")) is None:
        return ""
    try:
        return str(distributed.get_worker().address)
    except (AttributeError, ValueError):  # it is no process of Dask's
        return ""


@dataclass(frozen=True, slots=True)
class Begun:
    """A task begins where it runs: a pool may have let it wait, or it has just turned out that it is to be made."""

    task_id: str
    handover: int  # which one led to this, see `Progress.handed_over`
    at: dt.datetime  # by the clock of that machine, as those of transfers; from another one no news arrive
    site: Site


@dataclass(frozen=True, slots=True)
class Printed:
    """Whole lines that a task has printed, or logged, on the screen that the bars are on."""

    text: str


News: TypeAlias = TransferEvent | Begun | Printed  # what a task tells, from whichever process


@dataclass(slots=True)
class _State:
    """How far one task is."""

    task: luigi.Task
    task_id: str
    kind: str
    name: str = ""  # asked for when the first event names it
    status: TaskStatus | None = None  # of the last try; None as long as it has not ended
    attempt: int = 0
    is_paused: bool = False
    site: Site = Site()  # where it ran last
    handover: int | None = None  # whose news count; None as long as it is with nobody
    handed_over: float = 0.0  # when that was
    since: float | None = None  # when it began to run, or went on; None while it does not run
    ran_s: float = 0.0  # in this try, before its last pause


class Progress:
    """How far the tasks of one run are. Safe between threads."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._receivers: list[Receiver] = []
        self._print_lines: Callable[[str], object] | None = None
        self._lock = threading.RLock()
        self._began = time.monotonic()
        self._has_begun = False
        self._workers = 1
        self._states: dict[str, _State] = {}
        self._complete: dict[str, luigi.Task] = {}
        self._durations = Durations()
        self._clock = Clock()
        self._remaining: Counter[str] = Counter()  # by class
        self._counts: Counter[TaskStatus | None] = Counter()
        self._running: dict[str, _State] = {}
        self._handovers = itertools.count(1)
        self._estimate: tuple[float, float | None] = (0.0, None)  # when it was made, and what it was

    def follow(self, receive: Receiver, print_lines: Callable[[str], object] | None = None) -> None:
        """Have each event told to a receiver, and what tasks print on the screen to what prints it for them."""
        self._receivers.append(receive)
        self._print_lines = print_lines or self._print_lines

    @property
    def is_followed(self) -> bool:
        """Say whether anybody is told."""
        return bool(self._receivers)

    # What happens to tasks

    def scheduled(self, told: Iterable[tuple[luigi.Task, str, bool | None]]) -> None:
        """Take what the scheduler was told of tasks: each with its status, and whether it may run."""
        if not self.is_followed:
            return
        with self._lock:
            count = 0
            for task, status, is_runnable in told:
                if status == PENDING and is_runnable:
                    count += self._to_run(task)[1]
                elif status == DONE and not self._has_begun:
                    self._complete.setdefault(task.task_id, task)
            if count and self._has_begun:
                self._tell(TasksAdded(run_id=self.run_id, at=now(), count=count, tally=self._tally(anew=True)))

    def begin(self, workers: int) -> None:
        """Take that all is known that there is to run, and how many tasks may run at a time."""
        if not self.is_followed:
            return
        with self._lock:
            self._workers = workers
            self._has_begun = True
            self._durations.read_former((state.task for state in self._states.values()), self._complete.values())
            complete = len(self._complete.keys() - self._states.keys())
            self._complete.clear()
            self._tell(RunStarted(run_id=self.run_id, at=now(), complete=complete, tally=self._tally(anew=True)))

    def handed_over(self, task: luigi.Task) -> int:
        """Take that a task is given to what runs it; give the number that it names when it says that it begins.

        So the news of a process that has been given up are told from those of the one that took its place.
        """
        with self._lock:
            state = self._states.get(task.task_id) or self._to_run(task)[0]
            return self._hand_over(state)

    def started(self, task: luigi.Task) -> None:
        """Take that a task begins, or goes on after a pause, now and here or in a process that is begun for it."""
        with self._lock:
            state, _ = self._to_run(task)
            if state.since is None:
                self._start(state, time.monotonic())

    def placed(self, task: luigi.Task, site: Site | None) -> None:
        """Take where a task runs, or ran, as soon as that is known; None if it still is not."""
        with self._lock:
            if site is not None and (state := self._states.get(task.task_id)) is not None:
                state.site = site

    def paused(self, task: luigi.Task, ran_s: float | None = None) -> None:
        """Take that a task waits for what it has yielded; `ran_s` is as for `ended`."""
        with self._lock:
            if (state := self._states.get(task.task_id)) is not None:
                if state.since is None and ran_s is not None:
                    self._start(state, _set_back(state, ran_s))
                self._pause(state, ran_s)

    def lost(self, task: luigi.Task, handover: int) -> int:
        """Take that the pool ended that a task was given to, and that it is given to another; give its new number."""
        with self._lock:
            state = self._states.get(task.task_id)
            if state is None or state.handover != handover:
                return handover  # it was given up, and is with somebody else
            self._lose(state)
            return self._hand_over(state)

    def ended(self, task: luigi.Task, status: TaskStatus, reason: str = "", ran_s: float | None = None) -> None:
        """Take how a task ended, and how long it ran as far as that was measured where it did, in seconds.

        One that could not tell that it began has done so, that much earlier.
        """
        with self._lock:
            state, _ = self._to_run(task)
            if status is not TaskStatus.MADE_ELSEWHERE and state.since is None:
                self._start(state, _set_back(state, ran_s or 0.0))
            end = self._stop(state, ran_s)
            if end is None:
                self._remaining[state.kind] -= 1
            if status is TaskStatus.DONE:
                self._durations.observe(state.kind, state.ran_s)
            state.status = status
            state.is_paused = False
            self._counts[status] += 1
            where = _told_of(state.site)
            self._tell_of(TaskEnded, state, end, status=status, duration_s=state.ran_s, reason=reason, **where)
            state.site = Site()

    def end(self, *, is_success: bool) -> None:
        """Take that the run is over."""
        with self._lock:
            for state in tuple(self._running.values()):
                self.ended(state.task, TaskStatus.STOPPED)
            self._durations.keep()
            if self.is_followed:
                duration_s = time.monotonic() - self._began
                tally = self._tally(anew=True)
                self._tell(
                    RunEnded(run_id=self.run_id, at=now(), tally=tally, duration_s=duration_s, is_success=is_success)
                )

    def _to_run(self, task: luigi.Task) -> tuple[_State, bool]:
        """Note that a task is to run; give how far it is, and whether that is news."""
        task_id = task.task_id
        state = self._states.get(task_id)
        if state is None:
            state = self._states[task_id] = _State(task, task_id, kind_of(task))
        elif state.status is None:
            return state, False
        else:
            self._counts[state.status] -= 1
            state.status = None
        self._remaining[state.kind] += 1
        return state, True

    def _hand_over(self, state: _State) -> int:
        state.handover = next(self._handovers)
        state.handed_over = time.monotonic()
        return state.handover

    def _start(self, state: _State, since: float) -> None:
        """Note and tell that a task runs, and since when."""
        if not state.is_paused:
            state.attempt += 1
            state.ran_s = 0.0
        state.is_paused = False
        state.since = since
        self._clock.changes(len(self._running))
        self._remaining[state.kind] -= 1
        self._running[state.task_id] = state
        self._tell_of(TaskStarted, state, since)

    def _stop(self, state: _State, ran_s: float | None = None) -> float | None:
        """Note that a task is with nobody; give when it ended to run, None if it did not run.

        That it has ended is known later where its values travel, or a cluster is asked now and then.
        """
        state.handover = None
        if state.since is None:
            return None
        self._clock.changes(len(self._running))
        del self._running[state.task_id]
        instant = time.monotonic()
        end = instant if ran_s is None else min(instant, state.since + ran_s)
        state.ran_s += end - state.since
        state.since = None
        return end

    def _pause(self, state: _State, ran_s: float | None = None, reason: str = "") -> None:
        """Note and tell that a task which runs does not run for now."""
        if (end := self._stop(state, ran_s)) is not None:
            state.is_paused = True
            self._remaining[state.kind] += 1
            self._tell_of(TaskPaused, state, end, reason=reason, **_told_of(state.site))
            state.site = Site()  # it goes on somewhere else, perhaps

    def _lose(self, state: _State) -> None:
        """Note and tell that a task has run in vain: it is the same try that begins anew, and takes the whole time."""
        ran_before_s = state.ran_s
        self._pause(state, reason=_LOST)
        state.ran_s = ran_before_s

    # How far all is

    def task(self, task_id: str) -> luigi.Task:
        """Give the task that an event is about, by its id."""
        with self._lock:
            return self._states[task_id].task

    def tasks(self) -> dict[str, luigi.Task]:
        """Give, by their ids, all tasks that there were to run, as far as that was found out."""
        with self._lock:
            return {task_id: state.task for task_id, state in self._states.items()}

    def _tally(self, *, anew: bool = False) -> Tally:
        counts = self._counts
        return Tally(
            total=len(self._states),
            done=counts[TaskStatus.DONE] + counts[TaskStatus.MADE_ELSEWHERE],
            running=len(self._running),
            failed=counts[TaskStatus.FAILED] + counts[TaskStatus.STOPPED],
            remaining=len(self._states) - len(self._running) - sum(self._counts.values()),
            left_s=self._left_s(anew=anew),
        )

    def _left_s(self, *, anew: bool) -> float | None:
        """Give how long the rest takes; estimated anew now and then, as that looks at every class."""
        instant = time.monotonic()
        made_at, left_s = self._estimate
        if not anew and left_s is not None and instant - made_at < _ESTIMATE_S:
            return max(0.0, left_s - (instant - made_at))
        left_s = self._estimated(instant)
        self._estimate = instant, left_s
        return left_s

    def _estimated(self, instant: float) -> float | None:
        usual_s = self._durations.usual_s()
        waiting = {kind: count for kind, count in self._remaining.items() if count}
        work_s, longest_s = 0.0, 0.0
        for kind, count in waiting.items():
            expected_s = usual_s(kind)
            if expected_s is None:
                return None
            work_s += count * expected_s
        for state in self._running.values():
            expected_s = usual_s(state.kind)
            if expected_s is None:
                return None
            rest_s = max(0.0, expected_s - state.ran_s - (instant - (state.since or instant)))
            work_s += rest_s
            longest_s = max(longest_s, rest_s)
        at_a_time = self._clock.tasks_at_a_time(len(self._running), self._workers)
        to_come = len(self._running) + sum(waiting.values())
        return max(longest_s, work_s / max(1.0, min(at_a_time, to_come)))

    # What is told

    def take(self, news: News) -> None:
        """Take what a task tells, from whichever thread."""
        if isinstance(news, ProgressEvent):
            self._tell(news)
        elif isinstance(news, Printed):
            if self._print_lines is not None:
                self._print_lines(news.text)
        else:
            with self._lock:
                state = self._states.get(news.task_id)
                if state is not None and state.handover == news.handover:  # else it has ended, or was given up
                    self._take_begun(state, news)

    def _take_begun(self, state: _State, begun: Begun) -> None:
        if state.since is not None:  # its pool has begun it once more, as Dask does where a worker is lost
            self._lose(state)
            state.handover = begun.handover
        state.site = begun.site
        self._to_run(state.task)
        self._start(state, _set_back(state, (now() - begun.at).total_seconds()))

    def _tell_of(self, kind: type[_TaskEvent], state: _State, instant: float | None, **facts: Any) -> None:
        """Tell of a task what happened to it at an instant, None for now."""
        if self.is_followed:
            at = now() - dt.timedelta(seconds=0.0 if instant is None else max(0.0, time.monotonic() - instant))
            state.name = state.name or public_name(state.task)
            self._tell(
                kind(
                    run_id=self.run_id,
                    at=at,
                    task_id=state.task_id,
                    task=state.name,
                    family=state.task.get_task_family(),
                    attempt=max(1, state.attempt),
                    tally=self._tally(),
                    **facts,
                )
            )

    def _tell(self, event: ProgressEvent) -> None:
        with self._lock:
            for receive in self._receivers:
                receive(event)


def _set_back(state: _State, ran_s: float) -> float:
    """Give when a task began that has run for so long: not before it was handed over, whatever a clock says."""
    instant = time.monotonic()
    return min(instant, max(state.handed_over, instant - ran_s))


def _told_of(site: Site) -> dict[str, Any]:
    return {"host": site.host, "process_id": site.process_id, "worker": site.worker}


class Patient:
    """A receiver of the user's, whose errors do not reach the run: the first is logged."""

    def __init__(self, receive: Receiver) -> None:
        self._receive = receive
        self._has_failed = False

    def __call__(self, event: ProgressEvent) -> None:
        """Hand on an event."""
        try:
            self._receive(event)
        except Exception:  # noqa: BLE001  (whatever a user's function may do)
            if not self._has_failed:
                self._has_failed = True
                _log.warning(
                    "progress=%r raised an error when it was given %s. The run goes on, and it is given the events "
                    "that follow; further errors of it are not shown.",
                    self._receive,
                    type(event).__name__,
                    exc_info=True,
                )
