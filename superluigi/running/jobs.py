"""A task that travels to another process: all that it takes to run it there, and the report that comes back.

The invariant: nothing there has to be asked of the graph anew, the caller's listeners hear each event once, and a
report arrives whatever it holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pickle
import socket
import threading
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from luigi.event import Event
from luigi.task_status import DONE
from luigi.worker import TaskStatusReporter

from superluigi import config as configuration
from superluigi import dag, expectations, identity
from superluigi.errors import ExecutorError
from superluigi.running.mailbox import Address, send_to
from superluigi.running.progress import News, Site
from superluigi.running.task_process import (
    ITSELF,
    PooledTask,
    Reading,
    RemoteTraceback,
    SchedulerAfar,
    TaskProcess,
    TaskReport,
    away,
)
from superluigi.storage import workplace
from superluigi.targets import memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import luigi

    from superluigi.running.screen import ScreenId
    from superluigi.running.state import Run
    from superluigi.targets.memory import Key, Reference


def dumps(value: object) -> bytes:
    """Pickle; classes of a notebook or a script, and those inside functions, by value."""
    import cloudpickle

    return bytes(cloudpickle.dumps(value))


@dataclass(frozen=True)
class Job:
    """All that it takes to run a task elsewhere: nothing there has to be asked of the graph anew."""

    task: luigi.Task
    task_id: str
    upstream_ids: tuple[str, ...]
    code: str | None  # of its class, whose source may stay behind
    history: str  # the key of the class's, which tells of its file
    run: Run
    settings: Mapping[str, Mapping[str, str]]
    worker_id: str
    caller_pid: int
    post: Address | str | None
    checks_upstream: bool
    checks_complete: bool
    readers: tuple[luigi.Task, ...] = ()
    waits: bool = False
    values: Mapping[Key, Reference] = field(default_factory=dict)
    news: Address | None = None  # where those listen who follow the run
    handover: int = 0  # what they know it by
    screen: ScreenId | None = None  # that bars are on
    keys_there: tuple[Key, ...] = ()  # of values that are handed over beside the job, as they are with the pool already

    @classmethod
    def of(
        cls,
        process: PooledTask,
        post: Address | str | None,
        values: Mapping[Key, Reference],
        keys_there: tuple[Key, ...] = (),
        *,
        news: Address | None = None,
    ) -> Job:
        """Take what a task process of the caller would run, with the values that the task reads."""
        task = process.task
        upstream = dag.upstream_of(task) if dag.is_ours(task) else []
        return cls(
            task=task,
            task_id=task.task_id,
            upstream_ids=tuple(required.task_id for required in upstream),
            code=identity.code_of(type(task)),
            history=expectations.key_of(type(task)),
            run=process.of_run.as_seen_by(task, process.readers),
            settings=configuration.of_this_call(),
            worker_id=process.worker_id,
            caller_pid=os.getpid(),
            post=post,
            checks_upstream=process.check_unfulfilled_deps and not all(map(dag.is_known_complete, upstream)),
            checks_complete=process.check_complete_on_run,
            readers=process.readers,
            waits=process.waits,
            values=values,
            news=news,
            handover=process.handover,
            screen=process.screen,
            keys_there=keys_there,
        )

    def is_of_an_ended_run(self) -> bool:
        """Say whether it is certain that nobody waits for the task, in a process that the caller itself has started.

        concurrent.futures hands out a few tasks before there is a process for them, and cannot take these back.
        """
        parent = multiprocessing.parent_process()
        if parent is None or parent.pid != self.caller_pid or not isinstance(self.post, Address):
            return False
        return not send_to(self.post, None)

    def carry_out(self, values_there: Sequence[Reference] = (), *, values_stay: bool = False) -> TaskReport:
        """Run the task in this process; the values that it sets leave with the report, or stay as they are."""
        configuration.drop_inherited()
        task: Any = self.task
        events: list[tuple[str, tuple[Any, ...]]] = []

        def tell(event: str, *args: Any) -> None:  # the caller's listeners count
            events.append((event, tuple(ITSELF if arg is task else arg for arg in args)))

        task.trigger_event = tell
        collected = _Collector(self.post)
        values = {**self.values, **dict(zip(self.keys_there, values_there, strict=True))}
        held = memory.Memory(values, leaves=True, stays=values_stay)
        process = TaskProcess(
            self.run,
            None,
            None,
            task,
            self.worker_id,
            collected,
            TaskStatusReporter(self._scheduler(), self.task_id, self.worker_id, None),
            check_unfulfilled_deps=self.checks_upstream,
            check_complete_on_run=self.checks_complete,
        )
        process.readers, process.waits = self.readers, self.waits
        process.tell = None if self.news is None else self._tell
        process.is_pooled, process.handover = True, self.handover
        with (
            away(self.run, self._tell, self.screen),
            configuration.shared(self.settings),
            memory.holding(held),
            dag.settled(anew=True),  # the process outlives the run, and Luigi keeps its instances
            workplace.keeping_folders(),
        ):
            if dag.is_ours(task):
                identity.remember(task, self.task_id)
                identity.tell_code(type(task), self.code)
                expectations.tell_key(type(task), self.history)
            with contextlib.suppress(Exception):  # it fails again where it is reported
                upstream = dag.upstream_of(task) if dag.is_ours(task) else []
                if len(upstream) == len(self.upstream_ids):
                    for required, known in zip(upstream, self.upstream_ids, strict=True):
                        if dag.is_ours(required):
                            identity.remember(required, known)
            process.run()
        report: TaskReport = collected.report
        has_told_of_start = not self.run.is_decided_late(task)  # else it is not known there whether the task will start
        told = [(event, args) for event, args in events if event != Event.START or not has_told_of_start]
        set_there = held.take_leaving() if report.result[1] == DONE else {}
        return dataclasses.replace(report, events=tuple(told), values=set_there, site=Site.here())

    def _tell(self, news: News) -> bool:
        return send_to(self.news, news)

    def _scheduler(self) -> Any:
        if isinstance(self.post, str):
            from luigi.rpc import RemoteScheduler

            return RemoteScheduler(self.post)
        return SchedulerAfar(functools.partial(send_to, self.post))


class _Collector:
    """Takes the one report of a task that runs elsewhere; what else it has to say is posted at once."""

    report: TaskReport

    def __init__(self, post: Address | str | None) -> None:
        self._post = post

    def take(self, process: TaskProcess, arrived: TaskReport | Reading) -> None:  # noqa: ARG002
        if isinstance(arrived, TaskReport):
            self.report = arrived
        elif isinstance(self._post, Address):
            send_to(self._post, arrived)


@dataclass(frozen=True)
class Outcome:
    """What a job leaves with a pool that keeps values: the report, and the values that it tells of."""

    report: bytes
    values: Mapping[Key, Any]

    def __sizeof__(self) -> int:
        """Give the size of the values in bytes, by which Dask decides what to move and what to write to its disk."""
        from dask.sizeof import sizeof

        return object.__sizeof__(self) + sum(int(sizeof(value)) for value in self.values.values())


@dataclass(frozen=True)
class Within:
    """A value within the outcome of another job, in the process that holds it."""

    outcome: Outcome
    key: Key

    def fetch(self) -> Any:
        """Give the value itself."""
        return self.outcome.values[self.key]


def run_elsewhere(job: bytes, name: str, outcomes: Sequence[Outcome] = ()) -> bytes:
    """Run a task in the pool's process; give the report, pickled, as classes of a notebook travel by value."""
    return _packed(_carried_out(job, name, outcomes, values_stay=False))


def run_and_keep(job: bytes, name: str, outcomes: Sequence[Outcome] = ()) -> Outcome:
    """Run a task in the pool's process, as `run_elsewhere` does, and leave the values that it sets there."""
    report = _carried_out(job, name, outcomes, values_stay=True)
    kept = {key: value for key, value in report.values.items() if not isinstance(value, memory.Packed)}
    told = {**report.values, **dict.fromkeys(kept, memory.STAYS)}
    return Outcome(_packed(dataclasses.replace(report, values=told)), kept)


def report_of(outcome: Outcome) -> bytes:
    """Give the report alone, for the caller."""
    return outcome.report


def _carried_out(job: bytes, name: str, outcomes: Sequence[Outcome], *, values_stay: bool) -> TaskReport:
    try:
        loaded: Job = pickle.loads(job)  # noqa: S301  (bytes of our own caller)
    except Exception as error:
        message = (
            f"The pool's process {os.getpid()} on {socket.gethostname()} cannot load {name}: {error}. Let its module "
            "be importable there (install it, or set PYTHONPATH), in the same version."
        )
        raise ExecutorError(message) from error
    _end_with_the_caller()
    if loaded.is_of_an_ended_run():
        message = f"{name} was not run: its run has ended."
        raise ExecutorError(message)
    there = [Within(outcome, key) for outcome, key in zip(outcomes, loaded.keys_there, strict=True)]
    return loaded.carry_out(there, values_stay=values_stay)


def _packed(report: TaskReport) -> bytes:
    """Pickle a report; for what cannot travel of it, an exception of the user's or of an event, stands its text."""
    if _travels(report):
        return dumps(report)
    text = report.text or str(report.result[2])
    events = tuple(
        (event, tuple(arg if _travels(arg) else RemoteTraceback(text) for arg in args)) for event, args in report.events
    )
    error = report.error if _travels(report.error) else None
    return dumps(dataclasses.replace(report, error=error, text=text, events=events))


def _travels(value: object) -> bool:
    try:
        pickle.loads(dumps(value))  # noqa: S301  (just made)
    except Exception:  # noqa: BLE001  (a user's class may fail in whatever way)
        return False
    return True


_watching: set[int] = set()


def _end_with_the_caller() -> None:
    """See that a process of a pool whose owner was killed ends: nobody would ever give it work or end it."""
    parent = multiprocessing.parent_process()
    if parent is None or os.getpid() in _watching:
        return
    _watching.add(os.getpid())

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="superluigi-watch", daemon=True).start()
