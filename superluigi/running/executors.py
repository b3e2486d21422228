"""Tasks on a pool that the user already has: threads, processes, Dask, or one event loop.

The worker hands a task to `Pool.start`; the pool runs Luigi's own `run` of the task process, in a thread as it is, or
elsewhere from a `Job` that holds all it needs; the report comes back as that of a forked process does. The invariant:
the state of the run stays with the caller, and whatever becomes of the pool, every task that was started reports once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import dataclasses
import functools
import logging
import os
import pickle
import threading
from collections import deque
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from luigi.event import Event

from superluigi import execution
from superluigi.errors import ConfigError, ExecutorError, MissingExtraError
from superluigi.running.jobs import (
    Job,
    Outcome,
    Within,
    dumps,
    report_of,
    run_and_keep,
    run_elsewhere,
)
from superluigi.running.mailbox import Mailbox
from superluigi.running.state import keys_of
from superluigi.targets.memory import STAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import luigi

    from superluigi.running.mailbox import Address
    from superluigi.running.state import Run
    from superluigi.running.task_process import PooledTask, Results
    from superluigi.targets.memory import Key

_log = logging.getLogger("superluigi")

_ASYNC_TASKS = 500
_DASK_SCHEMES = ("dask://", "tcp://", "tls://", "ws://", "wss://", "ucx://")
_CONNECT_TIMEOUT_S = 10
_POLL_S = 0.2
_DEATHS = ("KilledWorker", "UncompletedJobError")  # what Dask and submitit call it


class Pool:
    """What a run knows of an executor: how much it takes at a time, and what is in it. Not for several threads."""

    def __init__(
        self,
        executor: Executor,
        *,
        size: int | None = None,
        is_here: bool = False,
        renew: Callable[[], Executor] | None = None,
        interrupt: Callable[[], object] | None = None,
        release: Callable[[], object] | None = None,
    ) -> None:
        offered = getattr(executor, "_max_workers", None) or getattr(executor, "num_workers", None)  # the latter of MPI
        self.size: int = size or offered or os.cpu_count() or 1
        self.is_here = is_here
        self._executor = executor
        self._renew = renew
        self._interrupt = interrupt
        self._release = release
        self.ends_with_the_run = release is not None
        self._own: list[Executor] = []  # made for this run
        self._mailbox: Mailbox | None = None
        self._has_begun = False
        self._in_flight: set[PooledTask] = set()
        self._suspects: list[PooledTask] = []  # one of them broke the pool
        self._alone: deque[PooledTask] = deque()  # suspects that have to run one at a time to find out which
        self._is_one_alone = False
        self._held: deque[PooledTask] = deque()  # wait until that is found out
        self._what_broke: BaseException = BrokenExecutor()

    def own(self, executor: Executor) -> None:
        """Shut an executor down at the end, as it was made for this run."""
        self._own.append(executor)

    def check_can_run(self, tasks: Iterable[luigi.Task], run: Run) -> None:
        """See that tasks can travel to the pool, one of each class.

        Raises:
            ExecutorError: one cannot; each class is named.
        """
        if self.is_here:
            return
        problems = []
        for task in {type(task): task for task in tasks}.values():
            try:
                dumps(
                    (task, run.as_seen_by(task))
                )  # not read back: to load a class by value would replace it in Luigi's register
            except Exception as error:  # noqa: BLE001  (whatever a task may hold)
                problems.append(f"{type(task).__name__}: {error}")
        if problems:
            message = (
                f"Tasks cannot be sent to {self._executor!r}, because they do not pickle: {'; '.join(problems)}. Let "
                "classes stand in a module, and parameters hold plain values; or use threads (ThreadPoolExecutor)."
            )
            raise ExecutorError(message)

    def start(self, process: PooledTask, results: Results, scheduler_url: str | None) -> None:
        """Begin a task, or let it wait while it is found out which task broke the pool."""
        process.begin = functools.partial(self._submit, process, results, scheduler_url)
        if self._suspects or self._alone or self._is_one_alone:
            self._held.append(process)
        else:
            self._begin(process)

    def _begin(self, process: PooledTask) -> None:
        try:
            try:
                process.begin()
            except BrokenExecutor:
                if self._in_flight:  # it broke with these, which will say so
                    self._held.append(process)
                    return
                if not self._make_anew():  # it was broken before
                    raise
                process.begin()
        except ExecutorError as error:
            process.fail(str(error))
        except Exception as error:
            message = f"{self._executor!r} takes no tasks: {error}. Hand over an executor that is open."
            if not self._has_begun:
                raise ExecutorError(message) from error
            process.fail(message)
        else:
            self._has_begun = True
            self._in_flight.add(process)
            if not (self.is_here or process.has_begun or process.of_run.is_decided_late(process.task)):
                process.has_begun = True
                process.task.trigger_event(Event.START, process.task)

    def _submit(self, process: PooledTask, results: Results, scheduler_url: str | None) -> None:
        if self.is_here:
            process.future = self._executor.submit(contextvars.copy_context().run, process.run)
        else:
            if (scheduler_url is None or process.tell is not None) and self._mailbox is None:
                self._mailbox = Mailbox(results)
            address = None if self._mailbox is None else self._mailbox.address
            post = address if scheduler_url is None else scheduler_url
            process.future = self._submit_job(process, post, None if process.tell is None else address)
        process.future.add_done_callback(functools.partial(self._take, process))

    def _submit_job(self, process: PooledTask, post: Address | str | None, news: Address | None) -> Future[Any]:
        task, run = process.task, process.of_run
        values = {} if run.memory.is_empty() else run.memory.references(run.keys_read_by(task))
        there = {key: value for key, value in values.items() if isinstance(value, _OnDask)}
        try:
            values = {key: value for key, value in values.items() if key not in there}
            job = dumps(Job.of(process, post, values, tuple(there), news=news))
        except Exception as error:
            message = f"{task} cannot be sent to {self._executor!r}, because it does not pickle: {error}."
            raise ExecutorError(message) from error
        if not isinstance(self._executor, _Dask):
            return self._executor.submit(run_elsewhere, job, str(task))
        outcomes = [value.outcome for value in there.values()]
        if not keys_of(task):
            return self._executor.submit(run_elsewhere, job, str(task), outcomes)
        process.outcome, future = self._executor.submit_and_keep(job, str(task), outcomes)
        return future

    def _take(self, process: PooledTask, future: Future[Any]) -> None:
        """Pass on what came of a task; in whatever thread the executor calls this."""
        if future.cancelled():
            process.fail("The pool took the task back: it was cancelled, or the pool was shut down or lost.")
            return
        failure = future.exception()
        if isinstance(failure, BrokenExecutor):
            process.broke(failure)
        elif failure is not None:
            process.fail(_what_happened(failure), has_died=type(failure).__name__ in _DEATHS)
        elif not self.is_here:
            try:
                report = pickle.loads(future.result())  # noqa: S301  (our own bytes)
                stays = {key: _OnDask(process.outcome, key) for key, value in report.values.items() if value == STAYS}
                report = dataclasses.replace(report, values={**report.values, **stays})
            except Exception as error:  # noqa: BLE001  (without a report the run would wait for ever)
                process.fail(f"The pool's report on this task cannot be read here: {type(error).__name__}: {error}")
            else:
                process.outcome = None  # it is held by those alone who hold the values
                process.report(report)

    def ended(self, process: PooledTask) -> None:
        """Note that a task has reported; the next suspect may run."""
        self._in_flight.discard(process)
        self._go_on()

    def broke(self, process: PooledTask, error: BaseException) -> None:
        """Find out which task broke the pool: those that were in it run again, one at a time, in a fresh one."""
        self._in_flight.discard(process)
        self._suspects.append(process)
        self._what_broke = error
        self._go_on()

    def _go_on(self) -> None:
        if self._in_flight:
            return  # what was in the pool with a task that broke it ends with the pool, and comes here too
        self._is_one_alone = False
        if self._suspects:
            suspects, self._suspects = self._suspects, []
            if self._make_anew() and len(suspects) > 1:
                for suspect in suspects:
                    suspect.set_aside()
                self._alone.extend(suspects)
            else:
                for suspect in suspects:
                    suspect.fail(_what_happened(self._what_broke), has_died=True)
        if self._alone:
            self._is_one_alone = True
            self._begin(self._alone.popleft())
            return
        held, self._held = self._held, deque()
        for process in held:
            self._begin(process)

    def _make_anew(self) -> bool:
        if self._renew is None:
            return False
        self._executor = self._renew()
        self.own(self._executor)
        return True

    def close(self) -> None:
        """Take back what has not begun; wait for what runs in this process, as nothing can end it."""
        for process in tuple(self._in_flight):
            process.terminate()
        if self._interrupt is not None:
            self._interrupt()
        running = [process.future for process in self._in_flight if process.future and not process.future.done()]
        if self.is_here:
            concurrent.futures.wait(running)
        for executor in self._own:
            executor.shutdown(wait=not running)
        if self._mailbox is not None:
            self._mailbox.close()
        if self._release is not None:
            self._release()


def _what_happened(error: BaseException) -> str:
    name, said = type(error).__name__, " ".join(str(error).split())  # in one line, as it is told as the reason
    if isinstance(error, BrokenExecutor) or name in _DEATHS:
        return (
            f"The pool's process died while it ran this task ({name}: {said}). It was killed, ran out of memory, or "
            "something in the task called os._exit. Look into the log of the machine; give it more memory, or run "
            "fewer tasks at a time with num_workers."
        )
    if isinstance(error, ImportError):
        return f"The pool's process cannot import what it needs: {said}. Install superluigi and your code there, too."
    return f"The pool could not run this task: {name}: {said}"


# Which pool


def pool_of(given: Any) -> Pool:
    """Give the pool for what a user hands to `run_task(executor=...)`.

    An executor, something that makes one when called, a Dask client, the address of a Dask scheduler, an executor of
    submitit, or `"async"`.

    Raises:
        ConfigError: it is something else.
        ExecutorError: no Dask scheduler answers, or its client is closed.
    """
    if isinstance(given, str):
        return _named_pool(given)
    if type(given).__module__.partition(".")[0] == "distributed" and hasattr(given, "get_executor"):
        return _dask_pool(given, release=None)
    if isinstance(given, Executor):
        return Pool(given, is_here=_is_here(given), renew=_renewal_of(given))
    if any(base.__module__.partition(".")[0] == "submitit" for base in type(given).__mro__):
        jobs = _Jobs(given)
        pool = Pool(jobs)
        pool.own(jobs)
        return pool
    if callable(given) and not isinstance(given, type):
        made = given()
        if isinstance(made, Executor):
            pool = Pool(made, is_here=_is_here(made), renew=given)
            pool.own(made)
            return pool
    message = (
        f"executor is {given!r}, but takes a concurrent.futures executor, a function that makes one, an executor of "
        "submitit, a dask.distributed client or the address of its scheduler (tcp://host:8786), or 'async'."
    )
    raise ConfigError(message)


def _named_pool(name: str) -> Pool:
    if name == "async":
        return _async_pool()
    if not name.startswith(_DASK_SCHEMES):
        message = f"executor is {name!r}, but takes 'async', or an address of Dask such as tcp://host:8786."
        raise ConfigError(message)
    address = name.replace("dask://", "tcp://", 1)
    if not _names_port(address):  # Dask's client would wait for 20 s more in vain
        message = f"executor is {name!r}, but an address of Dask has a host and a port, such as tcp://host:8786."
        raise ConfigError(message)
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError("dask", "distributed") from error
    try:
        client = Client(address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        message = f"No Dask scheduler answers at {address}: {error}. Start one, or correct the address."
        raise ExecutorError(message) from error
    return _dask_pool(client, release=client.close)


def _names_port(address: str) -> bool:
    try:
        return urlsplit(address).port is not None
    except ValueError:
        return False


def _dask_pool(client: Any, release: Callable[[], object] | None) -> Pool:
    if client.status != "running":
        message = f"{client!r} is {client.status}, so it takes no tasks. Hand over a client that is connected."
        raise ExecutorError(message)
    return Pool(_Dask(client), size=max(1, sum(client.ncores().values())), release=release)


def _async_pool() -> Pool:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="superluigi-async", daemon=True)
    thread.start()
    token = execution.shared_loop.set(loop)
    # Each task has a thread of its own for what is not asynchronous; it costs little while the task waits.
    executor = ThreadPoolExecutor(max_workers=_ASYNC_TASKS, thread_name_prefix="superluigi-async")

    async def cancel() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for waiting in others:
            waiting.cancel()

    async def finish() -> None:
        await loop.shutdown_asyncgens()
        await loop.shutdown_default_executor()

    def interrupt() -> None:
        asyncio.run_coroutine_threadsafe(cancel(), loop).result()

    def release() -> None:
        execution.shared_loop.reset(token)
        executor.shutdown(wait=True, cancel_futures=True)
        asyncio.run_coroutine_threadsafe(finish(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    return Pool(executor, is_here=True, interrupt=interrupt, release=release)


def _is_here(executor: Executor) -> bool:
    return isinstance(executor, ThreadPoolExecutor) and type(executor).__name__ != "InterpreterPoolExecutor"


def _renewal_of(executor: Executor) -> Callable[[], Executor] | None:
    if isinstance(executor, ProcessPoolExecutor):
        return functools.partial(_like, executor)
    for base in type(executor).__mro__:  # joblib has a loky of its own, so that a module's name does not tell
        if base.__name__ == "ProcessPoolExecutor" and "loky" in base.__module__:
            return functools.partial(_like_lokys, executor, base)
    return None


def _like(pool: Any) -> Executor:
    """Make a pool like a broken one; there is no public way to ask it how it was made."""
    return ProcessPoolExecutor(
        pool._max_workers,  # noqa: SLF001
        mp_context=pool._mp_context,  # noqa: SLF001
        initializer=pool._initializer,  # noqa: SLF001
        initargs=pool._initargs,  # noqa: SLF001
    )


def _like_lokys(pool: Any, base: Any) -> Executor:
    made: Executor = base(
        pool._max_workers,  # noqa: SLF001
        timeout=pool._timeout,  # noqa: SLF001
        context=pool._context,  # noqa: SLF001
        initializer=pool._initializer,  # noqa: SLF001
        initargs=pool._initargs,  # noqa: SLF001
        env=pool._env,  # noqa: SLF001
    )
    return made


class _Dask(Executor):
    """A client of Dask as an executor of concurrent.futures, which can leave the values of a task on its worker."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._given = client.get_executor(pure=False)

    def __repr__(self) -> str:
        return repr(self._client)

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self._given.submit(call, *args, **kwargs)
        return future

    def submit_and_keep(self, job: bytes, name: str, outcomes: list[Any]) -> tuple[Any, Future[Any]]:
        """Run a job; give Dask's own future of its outcome, which stays there as long as that is held, and its report.

        Should the worker be lost with the outcome, Dask runs the job again where the outcome is needed.
        """
        outcome = self._client.submit(run_and_keep, job, name, outcomes, pure=False)
        return outcome, self.submit(report_of, outcome)


@dataclass(frozen=True)
class _OnDask:
    """A value on a worker of Dask."""

    outcome: Any
    key: Key

    def fetch(self) -> Any:
        """Bring the value here, alone."""
        return self.outcome.client.submit(_value_of, self.outcome, self.key, pure=False).result()


def _value_of(outcome: Outcome, key: Key) -> Any:
    return Within(outcome, key).fetch()


class _Jobs(Executor):
    """submitit's executor as one of concurrent.futures: its jobs do not tell when they are done, so they are asked."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self._jobs: dict[Future[Any], Any] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="superluigi-jobs", daemon=True)

    def __repr__(self) -> str:
        return repr(self._given)

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        job, future = self._given.submit(call, *args, **kwargs), Future[Any]()
        with self._lock:
            self._jobs[future] = job
        if self._thread.ident is None:
            self._thread.start()
        return future

    def _watch(self) -> None:
        while not self._is_over.wait(_POLL_S):
            with self._lock:
                jobs = tuple(self._jobs.items())
            for future, job in jobs:
                if future.cancelled():
                    job.cancel(check=False)
                elif not job.done():
                    continue
                with self._lock:
                    del self._jobs[future]
                self._settle(future, job)

    def _settle(self, future: Future[Any], job: Any) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(job.result())
        except Exception as error:  # noqa: BLE001  (of the job, or of the cluster)
            future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()
        for future, job in self._jobs.items():
            if future.cancelled():
                job.cancel(check=False)
