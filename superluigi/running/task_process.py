"""One task that runs, here or in a process of its own, and what it reports to the worker.

The way of the data: the worker makes a `TaskProcess`; Luigi's `run` in it checks, runs and tells the outcome to `put`;
`Results` hands it to the worker. The invariant: every task that was begun reports once, also if its process dies.
"""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import dataclasses
import enum
import functools
import gc
import multiprocessing
import pickle
import queue
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from luigi.event import Event
from luigi.task_status import DONE, FAILED, PENDING
from luigi.worker import ContextManagedTaskProcess

from superluigi import config as configuration
from superluigi import dag, provenance, task_log
from superluigi.errors import public_name
from superluigi.failures import INTERRUPTED, SAID_OF_INTERRUPTION, Circumstances, text_for_log
from superluigi.running import bars, screen
from superluigi.running.progress import Begun, News, Printed, Site
from superluigi.running.single_flight import Turn, turn
from superluigi.running.watching import transfers_of
from superluigi.storage import observation, workplace
from superluigi.targets import memory
from superluigi.targets.metadata import now
from superluigi.task_log import TaskLog
from superluigi.tasks import TaskWithCleanup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from multiprocessing.connection import Connection

    import luigi

    from superluigi.running.screen import ScreenId
    from superluigi.running.state import Run
    from superluigi.running.worker import Worker
    from superluigi.targets.memory import Key, Reference


class Itself(enum.Enum):
    """What stands, among the arguments of an event, for the task that triggered it."""

    TASK = enum.auto()


ITSELF = Itself.TASK


@dataclass(frozen=True, slots=True)
class TaskReport:
    """How a task ended: Luigi's result, and the exception with its text where it failed with one."""

    result: tuple[Any, ...]
    error: BaseException | None = None
    text: str = ""
    events: tuple[tuple[str, tuple[Any, ...]], ...] = ()  # those that were triggered where nobody listens
    turn: Turn = Turn.OURS
    values: Mapping[Key, Reference] = field(default_factory=dict)  # what memory targets were given there
    circumstances: Circumstances | None = None  # of a failure
    site: Site | None = None  # where it ran, if that was in a process of a pool
    ran_s: float | None = None  # how long it ran there; None where it told nobody that it began


@dataclass(frozen=True, slots=True)
class Call:
    """Something that a running task tells the scheduler: its progress, a message, resources that it gives back."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a running task has yielded, and will read: it must not be cleaned up meanwhile."""

    task_id: str
    required: luigi.Task


@dataclass(frozen=True, slots=True)
class Broken:
    """A pool ended while a task was in it."""

    error: BaseException


class SchedulerAfar:
    """The scheduler as a task sees it that runs elsewhere: calls are sent, and nothing is answered."""

    def __init__(self, send: Callable[[Call], object]) -> None:
        self._send = send

    def add_task(self, *args: Any, **kwargs: Any) -> None:
        """Send where the task can be followed."""
        self._send(Call("add_task", args, kwargs))

    def set_task_status_message(self, *args: Any) -> None:
        """Send a message for the web page."""
        self._send(Call("set_task_status_message", args, {}))

    def set_task_progress_percentage(self, *args: Any) -> None:
        """Send how far the task is."""
        self._send(Call("set_task_progress_percentage", args, {}))

    def decrease_running_task_resources(self, *args: Any) -> None:
        """Send which resources the task needs no longer."""
        self._send(Call("decrease_running_task_resources", args, {}))

    def report_task_statistics(self, *args: Any) -> None:
        """Send numbers for the scheduler's metrics."""
        self._send(Call("report_task_statistics", args, {}))


class Results:
    """What tasks report to the worker, with the interface of Luigi's queue, and exceptions along.

    Each forked process has a pipe of its own: nobody waits for a lock that a killed process held, and its end is seen
    at once. What is reported in this process, from whatever thread, is not pickled: an exception keeps its traceback.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._arrived: deque[tuple[TaskProcess | None, TaskReport | Call | Reading | News | Broken]] = deque()
        self._changed = threading.Condition()
        self._awaited: dict[Connection, TaskProcess] = {}

    def put(self, result: tuple[Any, ...]) -> None:
        """Take what Luigi itself finds out about a process: that it died, or took too long."""
        self.take(None, TaskReport(result))

    def take(self, process: TaskProcess | None, arrived: TaskReport | Call | Reading | News | Broken) -> None:
        """Take a report, news, or a call to the scheduler, of a process of this worker. Safe between threads."""
        with self._changed:
            self._arrived.append((process, arrived))
            self._changed.notify()

    def expect(self, reader: Connection, process: TaskProcess) -> None:
        """Wait for the report of a process that was started."""
        self._awaited[reader] = process

    def get(self, timeout: float) -> tuple[Any, ...]:
        """Give the next result; calls that came before it are made now, in the thread that owns the scheduler.

        Raises:
            queue.Empty: none came in `timeout` seconds, or only calls. News are no reason to ask for work again.
        """
        until = time.monotonic() + min(timeout, self._worker.seconds_to_next())
        while True:
            if not self._arrived:
                self._wait(max(0.0, until - time.monotonic()))
            is_news_alone = bool(self._arrived)
            while self._arrived:
                process, arrived = self._arrived.popleft()
                if isinstance(arrived, TaskReport):
                    if arrived.turn is not Turn.TAKEN:
                        return self._worker.record(process, arrived)
                    self._worker.put_off(process, arrived)
                    raise queue.Empty
                self._take(process, arrived)
                is_news_alone &= isinstance(arrived, News)
            if not is_news_alone or time.monotonic() >= until:
                raise queue.Empty

    def _take(self, process: TaskProcess | None, arrived: Call | Reading | News | Broken) -> None:
        if isinstance(arrived, News):
            self._worker.take_news(arrived)
        elif isinstance(arrived, Call):
            self._worker.call_scheduler(arrived)
        elif isinstance(arrived, Reading):
            self._worker.note_reading(arrived)
        else:
            self._worker.pool_broke(process, arrived.error)

    def _wait(self, timeout: float) -> None:
        if not self._awaited:
            with self._changed:
                self._changed.wait_for(lambda: self._arrived, timeout)
            return
        connection.wait([*self._awaited, *(process.sentinel for process in self._awaited.values())], timeout)
        for reader, process in tuple(self._awaited.items()):
            if reader.poll() or not process.is_alive():
                self._read(reader, process)

    def _read(self, reader: Connection, process: TaskProcess) -> None:
        arrived = None
        if reader.poll():  # what the task has forked may hold the pipe when its process is long dead
            with contextlib.suppress(EOFError, OSError):  # nothing came, or not all
                arrived = reader.recv()
        if arrived is None:
            process.join()
            if process.exitcode == 0:  # of all others Luigi takes notice itself
                message = f"The process of {process.task} ended without a result: something in it called os._exit."
                self.put((process.task.task_id, FAILED, message, [], []))
        else:
            self.take(process, arrived)
        if not isinstance(arrived, Call | Reading | News):
            del self._awaited[reader]
            reader.close()

    def close(self) -> None:
        """Release the pipes."""
        for reader in self._awaited:
            reader.close()


def picklable(error: BaseException | None) -> BaseException | None:
    """Give the exception if it arrives whole in another process, else None."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
    except Exception:  # noqa: BLE001  (a user's exception may fail in whatever way)
        return None
    return error


@contextlib.contextmanager
def away(run: Run, tell: Callable[[News], object], on: ScreenId | None) -> Iterator[None]:
    """Let a task in another process than its worker's be one of the run, show no bars, and print where those are.

    `tell` says False where the worker cannot be told.
    """
    printing = screen.forwarded(lambda text: tell(Printed(text)), on)
    with provenance.run(run.run_id), bars.none_within(), printing:
        yield


class TaskProcess(ContextManagedTaskProcess):
    """Luigi's task process, which asks the run whether dependencies are complete, and hands on exceptions."""

    is_pooled = False  # so that it may wait for its turn
    handover = 0  # what those who follow the run know it by
    _began: float | None = None

    def __init__(self, run: Run, obstacle: Exception | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.results = self.result_queue
        self._writer: Connection | None = None
        self.result_queue = self
        self.of_run = run
        self._obstacle = obstacle
        self.readers: tuple[luigi.Task, ...] = ()  # of a short-lived task, who needs it
        self.waits = False  # for another run that makes the task; else the scheduler can put it off
        self.tell: Callable[[News], object] | None = None  # those who follow the run, if anybody does
        self.screen: ScreenId | None = None  # that bars are on
        self._sending = threading.Lock()
        self._failure: tuple[BaseException, str] | tuple[()] = ()
        self._settings = configuration.of_this_call()
        self._upstream: dict[luigi.Task, bool] | None = None
        self._kept: TaskLog | None = None
        self._values: Mapping[Key, Reference] | None = None  # that the task reads, where they are not inherited
        self.check_complete = self._is_complete  # type: ignore[assignment]  # Luigi's is a partial of the same form

    def start(self) -> None:
        """Run the task in a process of its own, which reports by a pipe."""
        reader, self._writer = multiprocessing.Pipe(duplex=False)
        run = self.of_run
        if multiprocessing.get_start_method() != "fork":  # then it is sent, and not the whole graph with it
            self._values = run.memory.references(run.keys_read_by(self.task))
            self.of_run = run.as_seen_by(self.task, self.readers)
        # They stay with the worker, also where a process is not forked.
        results, self.results = self.results, None
        self.tell = None if self.tell is None else self._tell_from_afar
        sending, self._sending = self._sending, None  # type: ignore[assignment]
        gc.freeze()  # a collection in the new process would copy every page that this one has
        super().start()
        self.results, self._sending, self.of_run = results, sending, run
        self._writer.close()  # so that it is closed when the process ends
        self.results.expect(reader, self)

    def run(self) -> None:
        """Run the task with the settings and the id of the run, which a process that is not forked does not inherit."""
        if not self.use_multiprocessing:
            self.run_in_turn()
            return
        # Threads of executors do not live on in a fork, but Python would wait for them when this process ends, and fail
        # where run_task itself is called in one.
        getattr(concurrent.futures.thread, "_threads_queues", {}).clear()
        self._sending = threading.Lock()
        with contextlib.ExitStack() as stack:
            if self._values is not None:  # it is not forked, so it has inherited nothing
                stack.enter_context(configuration.applied(self._settings, None))
                stack.enter_context(memory.holding(memory.Memory(self._values, leaves=True)))
            stack.enter_context(away(self.of_run, self._tell_from_afar, self.screen))
            try:
                self.run_in_turn()
            except KeyboardInterrupt:  # Ctrl-C reaches every process of the terminal; the one that was started tells
                sys.exit(INTERRUPTED)

    def run_in_turn(self) -> None:
        """Run the task: what it says is kept, and those who follow the run are told of its transfers."""
        if self.is_pooled and not self.of_run.is_decided_late(self.task):
            self._begin()
        with contextlib.ExitStack() as stack:
            if self.tell is not None:
                watch = transfers_of(self.of_run.run_id, self.task.task_id, self.tell)
                stack.enter_context(observation.observed(watch))
            self._kept = stack.enter_context(task_log.kept(self._log()))
            self._run_in_turn()

    def _begin(self) -> None:
        """Note that the task begins, and tell those who follow the run; the worker cannot know when that is."""
        self._began = time.monotonic()
        if self.tell is not None:
            self.tell(Begun(self.task.task_id, self.handover, now(), Site.here()))

    def _log(self) -> TaskLog:
        run_id = self.of_run.run_id
        title = f"in the run {run_id}"
        return TaskLog(
            run_id, self.task.get_task_family(), str(self.task.task_id), lambda: f"{public_name(self.task)} {title}"
        )

    def _run_in_turn(self) -> None:
        """Run the task, unless it turns out that it need not, or, with `single_flight`, that another run is at it."""
        if self._obstacle is not None or not self.of_run.is_decided_late(self.task):
            super().run()
            return
        with contextlib.ExitStack() as stack:
            try:
                is_made = functools.partial(self.of_run.is_made, self.task, self.readers)
                whose = stack.enter_context(
                    turn(self.task, is_made, is_leased=self.of_run.single_flight, waits=self.waits)
                )
            except Exception as error:  # noqa: BLE001  (the task fails with it where it would have run)
                self._obstacle, whose = error, Turn.OURS
            if whose is Turn.OURS:
                self._begin()
                super().run()
            else:
                status = DONE if whose is Turn.MADE else PENDING
                self.report(TaskReport((self.task.task_id, status, "", [], []), turn=whose))

    def _is_complete(self, task: luigi.Task) -> bool:
        if task == self.task:
            is_complete: bool = task.complete()
            return is_complete
        if self._upstream is None:  # Luigi asks this of all that a task requires, one after the other, before it runs
            upstream = dag.upstream_of(self.task)
            self._upstream = dict.fromkeys(filter(dag.is_known_complete, upstream), True)
            self._upstream |= self.of_run.exist([task for task in upstream if task not in self._upstream])
        known = self._upstream.pop(task, None)
        if known is not None:
            return known
        is_complete = self.of_run.is_complete(task)
        if is_complete and (isinstance(task, TaskWithCleanup) or dag.hands_on(task)):
            self.send(Reading(self.task.task_id, task))
        return is_complete

    def put(self, result: tuple[Any, ...]) -> None:
        """Take the result from Luigi's `run`, and pass it on with the exception that belongs to it.

        What was complete earlier in the run was not asked again. If the task failed, perhaps because it no longer
        is, it is asked now: Luigi has what is missing made again, and then this task.
        """
        task_id, status, expl, missing, new_deps = result
        if status is None:  # Luigi lets a KeyboardInterrupt pass, and would have the task run again
            status, expl = FAILED, SAID_OF_INTERRUPTION
        if status == FAILED and not missing and self._failure:
            missing = self.missing()
        circumstances = self._circumstances() if status == FAILED else None
        error, text = self._failure or (None, "")
        ran_s = None if self._began is None else time.monotonic() - self._began
        result = task_id, status, expl, missing, new_deps
        self.report(TaskReport(result, error, text, circumstances=circumstances, ran_s=ran_s))

    def _circumstances(self) -> Circumstances:
        log = self._kept
        path = str(log.path) if log is not None and log.is_written else None
        return Circumstances(None if log is None else log.read, path, socket.gethostname())

    def report(self, report: TaskReport) -> None:
        """Hand a report to the worker, from whichever process."""
        if self._writer is None:
            self.results.take(self, report)
        else:
            values = memory.current().take_leaving() if report.result[1] == DONE else {}
            with self._sending:
                self._writer.send(dataclasses.replace(report, error=picklable(report.error), values=values))

    def send(self, call: Call | Reading | News) -> None:
        """Hand to the worker, from whichever thread or process, what is for it or for the scheduler."""
        if self._writer is None:
            self.results.take(self, call)
        else:
            with self._sending:
                self._writer.send(call)

    def _tell_from_afar(self, news: News) -> bool:
        """Tell those who follow the run, from a process of the task's own; say whether that was possible."""
        try:
            self.send(news)
        except OSError:  # the worker has gone, or does not listen any more as the task has reported
            return False
        return True

    def missing(self) -> list[str]:
        """Give the ids of what was taken for complete and no longer is."""
        upstream = dag.upstream_of(self.task) if dag.is_ours(self.task) else []
        known = filter(dag.is_known_complete, upstream)
        return [required.task_id for required in known if not self._is_still_complete(required)]

    def _is_still_complete(self, task: luigi.Task) -> bool:
        try:
            return self.of_run.is_complete(task)
        except Exception:  # noqa: BLE001  (the failure that is being reported counts)
            return True

    def _run_get_new_deps(self) -> Any:
        if self._obstacle is not None:
            raise self._obstacle
        with workplace.keeping_folders() if self.use_multiprocessing else contextlib.nullcontext():
            return self._run_and_close()

    def _run_and_close(self) -> Any:
        try:
            return super()._run_get_new_deps()
        except BaseException as error:
            # Luigi's frame holds a run() that waits at a yield, and so its private folders, as long as the error lives.
            for frame, _ in traceback.walk_tb(error.__traceback__):
                waiting = frame.f_locals.get("task_gen") if frame.f_code.co_name == "_run_get_new_deps" else None
                if isinstance(waiting, Generator):
                    waiting.close()
            raise

    def _handle_run_exception(self, error: BaseException) -> Any:
        self._failure = (error, traceback.format_exc())
        if self._kept is not None:
            self._kept.write(text_for_log(self.task, error))
        if self.of_run.raise_exception:  # it will be seen where it arrives, so it is not logged here
            self.task.trigger_event(Event.FAILURE, self.task, error)
            self.task.on_failure(error)
            raise error
        return super()._handle_run_exception(error)


class PooledTask(TaskProcess):
    """A task process whose `run` is called by a pool, see `executors`."""

    future: Future[Any] | None = None
    outcome: Any = None  # Dask's own future of what the task leaves on its worker
    begin: Callable[[], None]
    is_pooled = True
    has_begun = False
    has_reported = False
    lose: Callable[[luigi.Task, int], int] | None = None  # those who follow the run, if anybody does

    def is_alive(self) -> bool:
        """Say whether the pool has not ended it."""
        return self.future is not None and not self.future.done()

    def terminate(self) -> None:
        """Take it back if it has not begun; what has begun in a pool cannot be ended."""
        if self.future is not None:
            self.future.cancel()

    def report(self, report: TaskReport) -> None:
        """Hand a report to the worker, once."""
        if not self.has_reported:
            self.has_reported = True
            super().report(report)

    def fail(self, message: str, *, has_died: bool = False) -> None:
        """Report that it could not be run, or that nothing came back; of a process that died Luigi has an event."""
        events = ((Event.PROCESS_FAILURE, (ITSELF, message)),) if has_died else ()
        self.report(TaskReport((self.task.task_id, FAILED, message, [], []), text=message, events=events))

    def set_aside(self) -> None:
        """Take that it was lost with the pool, and will be run again."""
        if self.lose is not None:
            self.handover = self.lose(self.task, self.handover)

    def broke(self, error: BaseException) -> None:
        """Report that the pool ended while this task was in it."""
        self.results.take(self, Broken(error))


class RemoteTraceback(Exception):  # noqa: N818  (it is the cause of an error, as in concurrent.futures)
    """The traceback of an exception from another process, as text; it is the cause of the exception."""

    def __str__(self) -> str:
        """Give the text."""
        return f"\n{self.args[0]}"
