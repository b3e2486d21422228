"""Luigi's worker for one run: it tells the scheduler what is to run, and runs what the scheduler hands out.

The invariant: Luigi's scheduling, retries, resources, priorities, events and dynamic dependencies are its own; this
module only answers whether a task is complete, chooses where it runs, and keeps exceptions.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import multiprocessing
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import luigi
import luigi.worker
from luigi.task_register import load_task
from luigi.task_status import DONE, FAILED, PENDING, UNKNOWN
from luigi.worker import TaskStatusReporter, TracebackWrapper, _get_retry_policy_dict

from superluigi import dag, identity, task_log
from superluigi.errors import CycleError, TaskFailedError, TaskTypeError, public_name
from superluigi.execution import prepare_to_fork
from superluigi.failures import Circumstances
from superluigi.outlook import Outlook
from superluigi.running import screen
from superluigi.running.cleanup import Cleanup
from superluigi.running.events import TaskStatus
from superluigi.running.progress import Progress, Site
from superluigi.running.single_flight import Turn, lease_of, pause_s
from superluigi.running.task_process import (
    ITSELF,
    Call,
    PooledTask,
    Reading,
    RemoteTraceback,
    Results,
    SchedulerAfar,
    TaskProcess,
    TaskReport,
)
from superluigi.targets.foresight import foresight

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from superluigi.running.executors import Pool
    from superluigi.running.progress import News
    from superluigi.running.scheduler import Scheduler
    from superluigi.running.state import Run


class Worker(luigi.worker.Worker):
    """Luigi's worker for one run."""

    def __init__(self, run: Run, *args: Any, pool: Pool | None, progress: Progress, **kwargs: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            kwargs["no_install_shutdown_handler"] = True  # Python allows signal handlers in the main thread alone
        super().__init__(*args, **kwargs)
        self._run = run
        self._task_result_queue.close()
        self._results = Results(self)
        self._task_result_queue = self._results  # type: ignore[assignment]  # it keeps the interface of the queue
        self._pool = pool
        self._progress = progress
        self._without_id: dict[luigi.Task, Exception] = {}
        self._done_before: set[str] | None = None
        self._told_done: set[luigi.Task] = set()  # by this run
        self._cleanup = Cleanup(run)
        self._put_off: Counter[str] = Counter()  # how often, by the ids of tasks that other runs were making
        self._here = Site.here()

    # Scheduling

    def add(self, task: luigi.Task, multiprocess: bool = False, processes: int = 0) -> bool:  # noqa: ARG002, FBT001, FBT002
        """Tell the scheduler of a task that is found to be needed while others run, and of all that it needs."""
        self._cleanup.is_needed(None, [task])
        return self._add_graph([task])

    def add_all(self, roots: Sequence[luigi.Task]) -> bool:
        """Tell the scheduler of tasks and of all that they need, level by level; nothing upstream of complete ones.

        Raises:
            CycleError: tasks require each other in a circle.
            TaskTypeError: what is required is no task, or cannot be told from another one.
        """
        self._cleanup.ask_for(roots)
        return self._add_graph(roots)

    def _add_graph(self, roots: Sequence[luigi.Task]) -> bool:
        for root in roots:
            self._validate_task(root)
        self.add_succeeded = True
        told_before = len(self._add_task_history)
        added: dict[luigi.Task, tuple[luigi.Task, ...]] = {}
        with foresight():
            self._add_levels(roots, added)
            for task in self._cleanup.take_spared():
                self._add_one(task)
        self._run.requirements.update(added)
        if not all(map(dag.is_ours, added)):  # where all are, their ids could not be told of a circle
            dag.walk(roots, lambda member: self._run.requirements.get(member, ()))
        if self._first_task is None and roots:
            self._first_task = roots[0].task_id
        self._progress.scheduled(itertools.islice(self._add_task_history, told_before, None))
        return bool(self.add_succeeded)

    def _add_levels(self, roots: Sequence[luigi.Task], added: dict[luigi.Task, tuple[luigi.Task, ...]]) -> None:
        """Add tasks and all that they need, but for what is spared; put what was added into `added`, with its needs."""
        outlook = Outlook(self._run.forcing)
        level = list(dict.fromkeys(roots))
        seen = set(level)
        while level:
            outlook.ask(level)
            following: list[luigi.Task] = []
            for current in level:
                if self._cleanup.spares(current):
                    continue
                upstream = added[current] = tuple(self._add_one(current))
                following += [required for required in dict.fromkeys(upstream) if required not in seen]
                seen.update(upstream)
                following += self._cleanup.is_needed(current, upstream)
            level = following

    def _keep_alive(self, get_work_response: Any) -> bool:
        """Stay as Luigi's `keep_alive` says, and while another client runs what is needed here: a path is promised."""
        if self._stop_requesting_work:
            return False
        is_put_off = self.seconds_to_next() < math.inf
        return bool(super()._keep_alive(get_work_response) or get_work_response.running_tasks or is_put_off)

    def _sleeper(self) -> Iterator[None]:
        for _ in super()._sleeper() if self._scheduler_url else itertools.repeat(None):
            if self._scheduler_url is None:
                time.sleep(min(self.seconds_to_next(), self._config.wait_interval))
            yield

    def seconds_to_next(self) -> float:
        """Give how long until a task that was put off may be tried again; infinity if there is none."""
        seconds = None if self._scheduler_url else self._scheduler.seconds_to_next()
        return math.inf if seconds is None else float(seconds)

    def run(self) -> bool:
        """Run what the scheduler hands out until there is nothing left to run."""
        self._progress.begin(self.worker_processes)
        return bool(super().run())

    def put_off(self, process: TaskProcess | None, report: TaskReport) -> None:
        """Take that another run is making a task: it is tried again in a while, and other tasks come first."""
        task_id = report.result[0]
        if self._running_tasks.pop(task_id, None) is None:
            return  # its process was killed when it had said so, and Luigi has taken notice of that first
        self._put_off[task_id] += 1
        if isinstance(process, PooledTask) and self._pool is not None:
            self._pool.ended(process)
        self._scheduler.put_off(task_id, pause_s(self._put_off[task_id]))

    def end(self) -> None:
        """Clean up what is left to be, once nothing more runs."""
        self._cleanup.end(self.statuses_there)

    def statuses_there(self, tasks: Collection[luigi.Task]) -> dict[luigi.Task, str]:
        """Give what the scheduler says of tasks. One request to a central one, if there are any."""
        if self._scheduler_url is None:
            found = {task: self._scheduler._state.get_task(task.task_id) for task in tasks}  # noqa: SLF001
            return {task: UNKNOWN if known is None else known.status for task, known in found.items()}
        listed = self._scheduler.task_list(status="", upstream_status="", limit=False) if tasks else {}
        return {task: listed[task.task_id]["status"] if task.task_id in listed else UNKNOWN for task in tasks}

    def __exit__(self, *raised: object) -> bool:
        """Tell the scheduler that what still runs has failed; it would wait for this client to come back."""
        error = raised[1]
        if error is not None:
            for task_id in self._running_tasks:
                with contextlib.suppress(Exception):  # the scheduler may be what failed
                    task = self._scheduled_tasks[task_id]
                    self._scheduler.add_task(
                        worker=self._id,
                        task_id=task_id,
                        status=FAILED,
                        expl=json.dumps(repr(error)),
                        resources=task.process_resources(),
                        retry_policy_dict=_get_retry_policy_dict(task),
                    )
        return bool(super().__exit__(*raised))

    def _add_one(self, task: luigi.Task) -> list[luigi.Task]:
        """Tell the scheduler of a task; give what it needs, unless it is complete."""
        is_complete = self._check(task)
        self._check_is_alone(task)
        if is_complete is True:
            self._told_done.add(task)
        if is_complete is False and self._is_done_there(task):
            self._scheduler.add_task(worker=self._id, task_id=task.task_id, status=UNKNOWN, runnable=False)
        upstream = []
        for required in self._add(task, is_complete):
            self._validate_task(required)
            self._has_id(required)  # Luigi asks for the ids of all that is required before each is checked
            upstream.append(required)
        return upstream

    def _check_is_alone(self, task: luigi.Task) -> None:
        """See that no other task of the run has its id: the scheduler would take one of them for both.

        Raises:
            TaskTypeError: one has, and other outputs; with the same outputs they are one task, defined twice.
        """
        other = self._scheduled_tasks.get(task.task_id)
        if other is None or other == task:
            return
        try:
            places = [list(map(dag.place_of, dag.targets(one))) for one in (task, other)]
        except Exception:  # noqa: BLE001  (the task fails with it where it runs)
            return
        if places[0] != places[1]:
            kinds = " and ".join(f"{type(one).__module__}.{type(one).__qualname__}" for one in (other, task))
            message = (
                f"Two tasks with different outputs are both {public_name(task)}, of {kinds}: Luigi tells tasks apart "
                "by the names of their classes and by their parameters. Give one class another name, or a "
                "task_namespace."
            )
            raise TaskTypeError(message)

    def _is_done_there(self, task: luigi.Task) -> bool:
        """Say whether the scheduler takes a task for done that is to run: it is forced, or its output vanished.

        For ten seconds after a task was done it ignores that the task is to run, unless it is told that this no
        longer holds: see `stable_done_cooldown_secs` in Luigi's scheduler. One request per run with forced tasks.
        """
        if task in self._run.done or task in self._told_done:
            return True
        if self._done_before is None:
            self._done_before = set(self._scheduler.task_list(status=DONE, upstream_status="", limit=False))
        if task.task_id not in self._done_before:
            return False
        # What another client finished since this one asked is complete by now: outputs are there before it says so.
        if self._run.forcing.includes(task):
            return True
        with foresight():
            return not task.complete()

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

    def to_run(self) -> list[luigi.Task]:
        """Give the tasks that the scheduler was told to have run."""
        return [task for task, status, _ in self._add_task_history if status == PENDING]

    # Running

    def _create_task_process(self, task: luigi.Task) -> TaskProcess:
        is_pooled = self._pool is not None and not self._run_here(task)
        process = (PooledTask if is_pooled else TaskProcess)(
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
        if self._run.raise_exception or self._pool is not None:
            process.use_multiprocessing = False
        if self._progress.is_followed:
            process.tell = self._progress.take
            process.handover = self._progress.handed_over(task)
            if isinstance(process, PooledTask):
                process.lose = self._progress.lost
            process.screen = screen.id_in_use()
        if process.use_multiprocessing:
            prepare_to_fork(task)
        if self._run.single_flight:
            process.readers = self._cleanup.readers(task)
            process.waits = self._scheduler_url is not None
        if (is_pooled or process.use_multiprocessing) and self._scheduler_url is None:
            process.status_reporter._scheduler = SchedulerAfar(process.send)  # noqa: SLF001  (it has no setter)
        return process

    def _run_here(self, task: luigi.Task) -> bool:
        """Say whether there is nothing to run of a task: its data are made elsewhere, or it has no id."""
        return task in self._without_id or dag.is_external(task)

    @property
    def _scheduler_url(self) -> str | None:
        """Where a central scheduler is, which a task can tell things from wherever it runs."""
        return getattr(self._scheduler, "_url", None)

    def _run_task(self, task_id: str) -> None:
        task = self._scheduled_tasks[task_id]
        if self._put_off[task_id] and (whose := self._look_again(task)) is not Turn.OURS:
            process = self._create_task_process(task)
            self._running_tasks[task_id] = process
            status = DONE if whose is Turn.MADE else PENDING
            self._results.take(process, TaskReport((task_id, status, "", [], []), turn=whose))
            return
        if self._pool is None or self._run_here(task) or task_id in self._running_tasks:
            is_new = task_id not in self._running_tasks
            if is_new:
                if not self._run.is_decided_late(task):  # else it tells itself, as what is in a pool does
                    self._progress.started(task)
                self._progress.placed(task, self._here)
            try:
                super()._run_task(task_id)
            except Exception as error:  # with `raise_exception`, the user's own, and no report will be looked at
                self._run.record_failure(task, error, traceback.format_exc())
                self._tell_of_failure(task)
                raise
            begun = self._running_tasks.get(task_id)
            if is_new and begun is not None and begun.use_multiprocessing:
                self._progress.placed(task, replace(self._here, process_id=begun.pid))
            return
        process = self._create_task_process(task)
        assert isinstance(process, PooledTask)
        if self._pool.is_here:
            self._progress.placed(task, self._here)
        self._running_tasks[task_id] = process
        self._pool.start(process, self._results, self._scheduler_url)

    def _look_again(self, task: luigi.Task) -> Turn:
        """Say how it is with a task that another run was making, without beginning anything for it."""
        try:
            lease = lease_of(task)
            if lease is not None and self._run.is_made(task, self._cleanup.readers(task)):
                return Turn.MADE
            return Turn.TAKEN if lease is not None and lease.is_taken() else Turn.OURS
        except Exception:  # noqa: BLE001  (the task fails with it where it takes the lease)
            return Turn.OURS

    def pool_broke(self, process: TaskProcess | None, error: BaseException) -> None:
        """Take that a pool ended while a task was in it."""
        assert self._pool is not None
        assert isinstance(process, PooledTask)
        self._pool.broke(process, error)

    def record(self, process: TaskProcess | None, report: TaskReport) -> tuple[Any, ...]:
        """Take what a task reports; give it as Luigi takes it.

        Raises:
            BaseException: with `raise_exception`, what the task raised, wherever that was.
        """
        task_id, status, expl, missing, new_deps = report.result
        task = self._scheduled_tasks[task_id]
        self._progress.placed(task, report.site)
        if isinstance(process, PooledTask):
            assert self._pool is not None
            self._pool.ended(process)
            for event, args in report.events:
                task.trigger_event(event, *(task if arg is ITSELF else arg for arg in args))
            if status == FAILED and not self._pool.is_here:
                missing = [*missing, *process.missing()]
        if new_deps:
            self._run.yielded.setdefault(task, set()).update(load_task(*required) for required in new_deps)
            self._cleanup.is_needed(task, self._run.yielded[task])
        self._run.memory.arrive(report.values)
        is_running = task_id in self._running_tasks  # else it was killed, and reports in spite of that
        if status == DONE:
            self._succeeded(task, report, is_running=is_running)
        elif status == FAILED and not new_deps:
            where = report.circumstances or self._circumstances_of(task)
            self._run.record_failure(task, report.error, report.text or str(expl), where)
            self._tell_of_failure(task, report.ran_s, is_running=is_running)
            if self._run.raise_exception and isinstance(process, PooledTask) and not missing:
                self._raise(task, report)
        elif is_running:
            self._progress.paused(task, report.ran_s)
        return task_id, status, expl, missing, new_deps

    def _succeeded(self, task: luigi.Task, report: TaskReport, *, is_running: bool) -> None:
        is_made = report.turn is Turn.MADE
        if is_made:
            self._run.found_made.add(task)
        if is_running:
            status = TaskStatus.MADE_ELSEWHERE if is_made else TaskStatus.DONE
            self._progress.ended(task, status, ran_s=report.ran_s)
        self._run.record_success(task)
        self._cleanup.succeeded(task)

    def _circumstances_of(self, task: luigi.Task) -> Circumstances:
        """Give what is known of a task whose process was killed: it may have written a log on this machine."""
        path = task_log.path_of(self._run.run_id, task.get_task_family(), str(task.task_id))
        return Circumstances(log=str(path) if path.exists() else None)

    def _tell_of_failure(self, task: luigi.Task, ran_s: float | None = None, *, is_running: bool = True) -> None:
        if is_running:
            reason = self._run.failures[task].reason.split("\n", 1)[0]
            self._progress.ended(task, TaskStatus.FAILED, reason, ran_s)

    def take_news(self, news: News) -> None:
        """Take what a running task lets those know who follow the run."""
        self._progress.take(news)

    def _raise(self, task: luigi.Task, report: TaskReport) -> None:
        if report.error is None:  # only its text could leave the process
            raise TaskFailedError([self._run.failures[task]], "A task failed.")
        is_from_elsewhere = self._pool is not None and not self._pool.is_here
        if is_from_elsewhere and report.error.__cause__ is None:
            raise report.error from RemoteTraceback(report.text)
        raise report.error

    def note_reading(self, reading: Reading) -> None:
        """Take that a running task has yielded a short-lived one, which is there."""
        if (reader := self._scheduled_tasks.get(reading.task_id)) is not None:
            self._cleanup.is_needed(reader, [reading.required])

    def call_scheduler(self, call: Call) -> None:
        """Tell the scheduler what a running task has to say to it."""
        getattr(self._scheduler, call.name)(*call.args, **call.kwargs)


class Factory:
    """Luigi's worker-scheduler factory for one run, for `luigi.build(..., worker_scheduler_factory=...)`."""

    def __init__(self, run: Run, pool: Pool | None, progress: Progress) -> None:
        self._run = run
        self._pool = pool
        self._progress = progress

    def create_local_scheduler(self) -> Scheduler:
        """Give the scheduler of a run without a central one."""
        from superluigi.running.scheduler import Scheduler

        return Scheduler(prune_on_get_work=True, record_task_history=False, shuffles=self._run.single_flight)

    def create_remote_scheduler(self, url: str) -> Any:
        """Give the connection to a central scheduler."""
        from superluigi.running.central import CentralScheduler

        return CentralScheduler(url)

    def create_worker(self, scheduler: Any, worker_processes: int, assistant: bool = False) -> Worker:  # noqa: FBT001, FBT002
        """Give the worker of this run."""
        return Worker(
            self._run,
            scheduler=scheduler,
            worker_processes=worker_processes,
            assistant=assistant,
            pool=self._pool,
            progress=self._progress,
        )
