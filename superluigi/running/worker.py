"""Luigi's worker, plus the state of one run: what is forced, what was done, what failed and with which exception.

The state lives here and nowhere else. The invariant: Luigi's scheduling, retries, resources, priorities, events
and dynamic dependencies are its own; this module only answers whether a task is complete, and keeps exceptions.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import pickle
import queue
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Generator
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import luigi
import luigi.worker
from luigi.event import Event
from luigi.task_status import DONE, FAILED, UNKNOWN
from luigi.worker import ContextManagedTaskProcess, TaskStatusReporter, TracebackWrapper

from superluigi import config as configuration
from superluigi import dag, identity, provenance
from superluigi.errors import CycleError, TaskFailure, TaskTypeError
from superluigi.execution import prepare_to_fork
from superluigi.planning import Forcing, Outlook
from superluigi.storage import workplace
from superluigi.targets.foresight import foresight
from superluigi.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from superluigi.running.scheduler import Scheduler

_Report = tuple[tuple[Any, ...], "BaseException | None", str]


class Run:
    """What is true of one run and of nothing else."""

    def __init__(self, forcing: Forcing, *, raise_exception: bool = False) -> None:
        self.run_id = uuid.uuid4().hex
        self.forcing = forcing
        self.raise_exception = raise_exception
        self.done: set[luigi.Task] = set()
        self.failures: dict[luigi.Task, TaskFailure] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the failures behind: exceptions of users need not pickle, and a task process does not look at them."""
        return {**self.__dict__, "failures": {}}

    def is_complete(self, task: luigi.Task) -> bool:
        """Say whether a task need not run: its own `complete()`, unless it is forced and was not run yet."""
        if self.forcing.includes(task) and task not in self.done:
            return False
        is_complete: bool = task.complete()
        _know(task, is_complete=is_complete)
        return is_complete

    def are_complete(self, tasks: Sequence[luigi.Task]) -> dict[luigi.Task, bool]:
        """Say it of many tasks, with few requests."""
        with foresight():
            Outlook(self.forcing).ask(tasks)
            return {task: self.is_complete(task) for task in tasks}

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


class _Results:
    """What task processes report to the worker, with the interface of Luigi's queue, and exceptions along.

    Each process has a pipe of its own: nobody waits for a lock that a killed process held, and its end is seen at
    once. What this process reports of itself is not pickled, so that an exception keeps its traceback.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._arrived: deque[_Report] = deque()
        self._awaited: dict[Connection, TaskProcess] = {}

    def put(self, result: tuple[Any, ...], error: BaseException | None = None, text: str = "") -> None:
        self._arrived.append((result, error, text))

    def expect(self, reader: Connection, process: TaskProcess) -> None:
        """Wait for the report of a process that was started."""
        self._awaited[reader] = process

    def get(self, timeout: float) -> tuple[Any, ...]:
        if not self._arrived:
            self._wait(timeout)
        if not self._arrived:
            raise queue.Empty
        result, error, text = self._arrived.popleft()
        task_id, status, expl, _, new_deps = result
        self._worker.record(task_id, status, new_deps, error, text or str(expl))
        return tuple(result)

    def _wait(self, timeout: float) -> None:
        if not self._awaited:
            time.sleep(timeout)  # only a task that Luigi believes to be running elsewhere leads here
            return
        connection.wait([*self._awaited, *(process.sentinel for process in self._awaited.values())], timeout)
        for reader, process in tuple(self._awaited.items()):
            if reader.poll() or not process.is_alive():
                del self._awaited[reader]
                self._take(reader, process)

    def _take(self, reader: Connection, process: TaskProcess) -> None:
        with reader:
            try:
                self._arrived.append(reader.recv())
            except (EOFError, OSError):  # nothing came, or not all
                process.join()
                if process.exitcode == 0:  # of all others Luigi takes notice itself
                    message = f"The process of {process.task} ended without a result: something in it called os._exit."
                    self.put((process.task.task_id, FAILED, message, [], []))

    def close(self) -> None:
        """Release the pipes."""
        for reader in self._awaited:
            reader.close()


def _picklable(error: BaseException | None) -> BaseException | None:
    """Give the exception if it arrives whole in another process, else None."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
    except Exception:  # noqa: BLE001  (a user's exception may fail in whatever way)
        return None
    return error


class TaskProcess(ContextManagedTaskProcess):
    """Luigi's task process, which asks the run whether dependencies are complete, and hands on exceptions."""

    def __init__(self, run: Run, obstacle: Exception | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._results = self.result_queue
        self._writer: Connection | None = None
        self.result_queue = self
        self._run = run
        self._obstacle = obstacle
        self._failure: tuple[BaseException, str] | tuple[()] = ()
        self._settings = configuration.of_this_call()
        self._upstream: dict[luigi.Task, bool] | None = None
        self._trusted: list[luigi.Task] = []
        self.check_complete = self._is_complete  # type: ignore[assignment]  # Luigi's is a partial of the same form

    def start(self) -> None:
        """Run the task in a process of its own, which reports by a pipe."""
        reader, self._writer = multiprocessing.Pipe(duplex=False)
        results, self._results = self._results, None  # they stay with the worker, also where a process is not forked
        gc.freeze()  # a collection in the new process would copy every page that this one has
        super().start()
        gc.unfreeze()
        self._results = results
        self._writer.close()  # so that it is closed when the process ends
        self._results.expect(reader, self)

    def run(self) -> None:
        """Run the task with the settings and the id of the run, which a process that is not forked does not inherit."""
        if not self.use_multiprocessing:
            super().run()
            return
        with configuration.applied(self._settings, None), provenance.run(self._run.run_id):
            super().run()

    def _is_complete(self, task: luigi.Task) -> bool:
        if task == self.task:
            is_complete: bool = task.complete()
            return is_complete
        if self._upstream is None:  # Luigi asks this of all that a task requires, one after the other, before it runs
            upstream = dag.upstream_of(self.task)
            self._trusted = [required for required in upstream if dag.is_known_complete(required)]
            trusted = set(self._trusted)
            self._upstream = dict.fromkeys(trusted, True)
            self._upstream |= self._run.are_complete([required for required in upstream if required not in trusted])
        known = self._upstream.pop(task, None)
        return self._run.is_complete(task) if known is None else known

    def put(self, result: tuple[Any, ...]) -> None:
        """Take the result from Luigi's `run`, and pass it on with the exception that belongs to it.

        What was complete earlier in the run was not asked again. If the task failed, perhaps because it no longer
        is, it is asked now: Luigi has what is missing made again, and then this task.
        """
        task_id, status, expl, missing, new_deps = result
        if status == FAILED and not missing and self._failure:
            missing = [required.task_id for required in self._trusted if not self._is_still_complete(required)]
        result = task_id, status, expl, missing, new_deps
        error, text = self._failure or (None, "")
        if self._writer is None:
            self._results.put(result, error, text)
        else:
            self._writer.send((result, _picklable(error), text))

    def _is_still_complete(self, task: luigi.Task) -> bool:
        try:
            return self._run.is_complete(task)
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
        if self._run.raise_exception:  # it will be seen where it arrives, so it is not logged here
            self.task.trigger_event(Event.FAILURE, self.task, error)
            self.task.on_failure(error)
            raise error
        self._failure = (error, traceback.format_exc())
        return super()._handle_run_exception(error)


class Worker(luigi.worker.Worker):
    """Luigi's worker for one run."""

    def __init__(self, run: Run, *args: Any, **kwargs: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            kwargs["no_install_shutdown_handler"] = True  # Python allows signal handlers in the main thread alone
        super().__init__(*args, **kwargs)
        self._run = run
        self._task_result_queue.close()
        self._task_result_queue = _Results(self)  # type: ignore[assignment]  # it keeps the interface of the queue
        self._without_id: dict[luigi.Task, Exception] = {}
        self._done_before: set[str] | None = None
        self.requirements: dict[luigi.Task, tuple[luigi.Task, ...]] = {}

    # Scheduling

    def add(self, task: luigi.Task, multiprocess: bool = False, processes: int = 0) -> bool:  # noqa: ARG002, FBT001, FBT002
        """Tell the scheduler of a task and of all that it needs; see `add_all`."""
        return self.add_all([task])

    def add_all(self, roots: Sequence[luigi.Task]) -> bool:
        """Tell the scheduler of tasks and of all that they need, level by level; nothing upstream of complete ones.

        Raises:
            CycleError: tasks require each other in a circle.
        """
        for root in roots:
            self._validate_task(root)
        self.add_succeeded = True
        level = list(dict.fromkeys(roots))
        seen = set(level)
        outlook = Outlook(self._run.forcing)
        with foresight():
            while level:
                outlook.ask(level)
                following: list[luigi.Task] = []
                for current in level:
                    upstream = self._add_one(current)
                    self.requirements[current] = tuple(upstream)
                    for required in upstream:
                        if required not in seen:
                            seen.add(required)
                            following.append(required)
                level = following
        if not all(map(dag.is_ours, seen)):  # where all are, their ids could not be told of a circle
            dag.walk(roots, lambda member: self.requirements.get(member, ()))
        if self._first_task is None and roots:
            self._first_task = roots[0].task_id
        return bool(self.add_succeeded)

    def _add_one(self, task: luigi.Task) -> list[luigi.Task]:
        """Tell the scheduler of a task; give what it needs, unless it is complete."""
        is_complete = self._check(task)
        if is_complete is False and self._is_done_there(task):
            self._scheduler.add_task(worker=self._id, task_id=task.task_id, status=UNKNOWN, runnable=False)
        upstream = []
        for required in self._add(task, is_complete):
            self._validate_task(required)
            self._has_id(required)  # Luigi asks for the ids of all that is required before each is checked
            upstream.append(required)
        return upstream

    def _is_done_there(self, task: luigi.Task) -> bool:
        """Say whether the scheduler takes a task for done that is to run: it is forced, or its output vanished.

        For ten seconds after a task was done it ignores that the task is to run, unless it is told that this no
        longer holds: see `stable_done_cooldown_secs` in Luigi's scheduler. One request per run with forced tasks.
        """
        if task in self._run.done:
            return True
        if not self._run.forcing.includes(task):
            return False
        if self._done_before is None:
            self._done_before = set(self._scheduler.task_list(status=DONE, upstream_status="", limit=False))
        return task.task_id in self._done_before

    def _check(self, task: luigi.Task) -> bool | TracebackWrapper:
        """Say whether a task is complete, or why that cannot be told."""
        try:
            is_complete = self._run.is_complete(task)
        except CycleError:
            raise
        except Exception as error:
            if self._run.raise_exception:
                raise
            if not self._has_id(task):
                return False
            text = traceback.format_exc()
            self._run.record_failure(task, error, text)
            return TracebackWrapper(text)
        self._has_id(task)
        return is_complete

    def _has_id(self, task: luigi.Task) -> bool:
        """Say whether a task's id can be told; if not, let Luigi's own id stand for it, so that Luigi can report on it.

        The id cannot be told if `requires()` fails, of the task itself or of one upstream. Such a task must not run.
        """
        if dag.is_ours(task) and not identity.is_known(task):
            for broken, error in identity.compute_all(task).items():
                identity.remember(broken, identity.luigi_id(broken))
                self._without_id[broken] = error
        return task not in self._without_id

    def _validate_dependency(self, dependency: Any) -> None:
        dag.check_is_task(dependency)

    def _log_complete_error(self, task: luigi.Task, tb: str) -> None:
        super()._log_complete_error(task, tb)
        if task not in self._run.failures:
            self._run.record_failure(task, sys.exc_info()[1], tb)

    def _log_dependency_error(self, task: luigi.Task, tb: str) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, TaskTypeError):
            raise error
        super()._log_dependency_error(task, tb)
        if self._run.raise_exception and error is not None:
            raise error
        self._run.record_failure(task, error, tb)

    # Running

    def _create_task_process(self, task: luigi.Task) -> TaskProcess:
        process = TaskProcess(
            self._run,
            self._without_id.get(task),
            self._config.task_process_context,
            task,
            self._id,
            self._task_result_queue,
            TaskStatusReporter(
                self._scheduler, task.task_id, self._id, multiprocessing.Queue() if task.accepts_messages else None
            ),
            use_multiprocessing=self._config.force_multiprocessing or self.worker_processes > 1,
            worker_timeout=self._config.timeout,
            check_unfulfilled_deps=self._config.check_unfulfilled_deps,
            check_complete_on_run=self._config.check_complete_on_run,
            task_completion_cache=self._task_completion_cache,
        )
        if self._run.raise_exception:
            process.use_multiprocessing = False
        if process.use_multiprocessing:
            prepare_to_fork(task)
        return process

    def record(self, task_id: str, status: str, new_deps: Any, error: BaseException | None, text: str) -> None:
        """Take what a task process reports."""
        task = self._scheduled_tasks[task_id]
        if status == DONE:
            self._run.record_success(task)
        elif status == FAILED and not new_deps:
            self._run.record_failure(task, error, text)


class Factory:
    """Luigi's worker-scheduler factory for one run, for `luigi.build(..., worker_scheduler_factory=...)`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.worker: Worker | None = None

    def create_local_scheduler(self) -> Scheduler:
        """Give the scheduler of a run without a central one."""
        from superluigi.running.scheduler import Scheduler

        return Scheduler(prune_on_get_work=True, record_task_history=False)

    def create_remote_scheduler(self, url: str) -> Any:
        """Give the connection to a central scheduler."""
        from luigi.rpc import RemoteScheduler

        return RemoteScheduler(url)

    def create_worker(self, scheduler: Any, worker_processes: int, assistant: bool = False) -> Worker:  # noqa: FBT001, FBT002
        """Give the worker of this run."""
        return Worker(self._run, scheduler=scheduler, worker_processes=worker_processes, assistant=assistant)
