"""Tasks on a pool that the user already has: threads, processes, Dask, or one event loop.

The worker hands a task to `Pool.start`; the pool runs Luigi's own `run` of the task process, in a thread as it is, or
elsewhere from a `_Job` that holds all it needs; the report comes back as that of a forked process does. The invariant:
the state of the run stays with the caller, and whatever becomes of the pool, every task that was started reports once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import logging
import multiprocessing
import os
import pickle
import secrets
import socket
import threading
import traceback
from collections import deque
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from luigi.event import Event
from luigi.worker import TaskStatusReporter

from superluigi import config as configuration
from superluigi import dag, execution, identity, provenance
from superluigi.errors import ConfigError, ExecutorError, MissingExtraError
from superluigi.running.task_process import Call, PooledTask, Report, SchedulerAfar, TaskProcess
from superluigi.storage import workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import luigi

    from superluigi.running.state import Run
    from superluigi.running.task_process import Results

_log = logging.getLogger("superluigi")

_ASYNC_TASKS = 500
_DASK_SCHEMES = ("dask://", "tcp://", "tls://", "ws://", "wss://", "ucx://")
_CONNECT_TIMEOUT_S = 10
_HERE = "127.0.0.1"


class Pool:
    """What a run knows of an executor: how much it takes at a time, and what is in it. Not for several threads."""

    def __init__(
        self,
        executor: Executor,
        *,
        size: int | None = None,
        is_here: bool = False,
        renew: Callable[[], Executor] | None = None,
        release: Callable[[], object] | None = None,
    ) -> None:
        self.size = size or getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self.is_here = is_here
        self._executor = executor
        self._renew = renew
        self._release = release
        self._renewed: list[Executor] = []
        self._mailbox: _Mailbox | None = None
        self._has_begun = False
        self._in_flight: set[PooledTask] = set()
        self._suspects: deque[PooledTask] = deque()  # one of them broke the pool
        self._alone: deque[PooledTask] = deque()  # suspects that have to run one at a time to find out which
        self._held: deque[PooledTask] = deque()  # wait until that is found out

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
                _dumps((task, run))  # not read back: to load a class by value would replace it in Luigi's register
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
        if self._suspects or self._alone:
            self._held.append(process)
        else:
            self._begin(process)

    def _begin(self, process: PooledTask) -> None:
        self._in_flight.add(process)
        try:
            process.begin()
        except BrokenExecutor as error:
            process.broke(error)
        except RuntimeError as error:
            self._in_flight.discard(process)
            message = f"{self._executor!r} takes no tasks: {error}. Hand over an executor that is open."
            if not self._has_begun:
                raise ExecutorError(message) from error
            process.fail(message)
        else:
            self._has_begun = True

    def _submit(self, process: PooledTask, results: Results, scheduler_url: str | None) -> None:
        if self.is_here:
            call: Callable[[], Any] = functools.partial(contextvars.copy_context().run, process.run)
        else:
            if scheduler_url is None and self._mailbox is None:
                self._mailbox = _Mailbox(results)
            post = scheduler_url if self._mailbox is None else self._mailbox.address
            process.task.trigger_event(Event.START, process.task)
            call = functools.partial(_run_elsewhere, _dumps(_Job.of(process, post)), str(process.task))
        process.future = self._executor.submit(call)
        process.future.add_done_callback(functools.partial(self._take, process))

    def _take(self, process: PooledTask, future: Future[Any]) -> None:
        """Pass on what came of a task; in whatever thread the executor calls this."""
        if future.cancelled():
            process.fail("The task was taken back before it began.")
            return
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            process.broke(error)
        elif error is not None:
            process.fail(_what_happened(error))
        elif not self.is_here:
            process.report(pickle.loads(future.result()))  # noqa: S301  (our own bytes)

    def ended(self, process: PooledTask) -> None:
        """Note that a task has reported; the next suspect may run."""
        self._in_flight.discard(process)
        if not self._in_flight:
            self._go_on()

    def broke(self, process: PooledTask, error: BaseException) -> None:
        """Find out which task broke the pool: those that were in it run again, one at a time, in a fresh one."""
        self._in_flight.discard(process)
        self._suspects.append(process)
        if self._in_flight:
            return  # what was in the pool with it ends with the pool, and comes here too
        suspects, self._suspects = self._suspects, deque()
        is_renewed = self._make_anew()
        if is_renewed and len(suspects) > 1:
            self._alone.extend(suspects)
        else:
            for suspect in suspects:
                suspect.fail(_what_happened(error))
        self._go_on()

    def _make_anew(self) -> bool:
        if self._renew is None:
            return False
        self._executor = self._renew()
        self._renewed.append(self._executor)
        return True

    def _go_on(self) -> None:
        if self._alone:
            self._begin(self._alone.popleft())
            return
        while self._held and not self._suspects:
            self._begin(self._held.popleft())

    def close(self) -> None:
        """Take back what has not begun; wait for what runs in this process, as nothing can end it."""
        for process in tuple(self._in_flight):
            process.terminate()
        if self.is_here:
            concurrent.futures.wait([process.future for process in self._in_flight if process.future is not None])
        for executor in self._renewed:
            executor.shutdown(wait=False, cancel_futures=True)
        if self._mailbox is not None:
            self._mailbox.close()
        if self._release is not None:
            self._release()


def _what_happened(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, BrokenExecutor) or name == "KilledWorker":
        return (
            f"The pool's process died while it ran this task ({name}: {error}). It was killed, ran out of memory, or "
            "something in the task called os._exit. Look into the log of the machine; give it more memory, or run "
            "fewer tasks at a time with num_workers."
        )
    if isinstance(error, ImportError):
        return f"The pool's process cannot import what it needs: {error}. Install superluigi and your code there, too."
    return f"The pool could not run this task: {name}: {error}"


# Which pool


def pool_of(given: Any) -> Pool:
    """Give the pool for what a user hands to `run_task(executor=...)`.

    An executor, something that makes one when called, a Dask client, the address of a Dask scheduler, or `"async"`.

    Raises:
        ConfigError: it is something else.
        ExecutorError: no Dask scheduler answers, or its client is closed.
    """
    if isinstance(given, str):
        return _named_pool(given)
    if type(given).__module__.partition(".")[0] == "distributed" and hasattr(given, "get_executor"):
        return _dask_pool(given, release=None)
    if isinstance(given, ProcessPoolExecutor):
        return Pool(given, renew=functools.partial(_like, given))
    if isinstance(given, Executor):
        is_here = isinstance(given, ThreadPoolExecutor) and type(given).__name__ != "InterpreterPoolExecutor"
        return Pool(given, is_here=is_here)
    if callable(given) and not isinstance(given, type):
        made = given()
        if isinstance(made, Executor):
            pool = pool_of(made)
            return Pool(made, is_here=pool.is_here, renew=given)
    message = (
        f"executor is {given!r}, but takes a concurrent.futures executor, a function that makes one, a "
        "dask.distributed client or the address of its scheduler (tcp://host:8786), or 'async'."
    )
    raise ConfigError(message)


def _named_pool(name: str) -> Pool:
    if name == "async":
        return _async_pool()
    if not name.startswith(_DASK_SCHEMES):
        message = f"executor is {name!r}, but takes 'async', or an address of Dask such as tcp://host:8786."
        raise ConfigError(message)
    address = name.replace("dask://", "tcp://", 1)
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


def _dask_pool(client: Any, release: Callable[[], object] | None) -> Pool:
    if client.status != "running":
        message = f"{client!r} is {client.status}, so it takes no tasks. Hand over a client that is connected."
        raise ExecutorError(message)
    return Pool(client.get_executor(pure=False), size=max(1, sum(client.ncores().values())), release=release)


def _async_pool() -> Pool:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="superluigi-async", daemon=True)
    thread.start()
    token = execution.shared_loop.set(loop)
    # Each task has a thread of its own for what is not asynchronous; it costs little while the task waits.
    executor = ThreadPoolExecutor(max_workers=_ASYNC_TASKS, thread_name_prefix="superluigi-async")

    def release() -> None:
        execution.shared_loop.reset(token)
        executor.shutdown(wait=True, cancel_futures=True)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    return Pool(executor, is_here=True, release=release)


def _like(pool: Any) -> Executor:
    """Make a pool like a broken one; there is no public way to ask it how it was made."""
    return ProcessPoolExecutor(
        pool._max_workers,  # noqa: SLF001
        mp_context=pool._mp_context,  # noqa: SLF001
        initializer=pool._initializer,  # noqa: SLF001
        initargs=pool._initargs,  # noqa: SLF001
    )


# What travels


def _dumps(value: object) -> bytes:
    """Pickle; classes of a notebook or a script, and those inside functions, by value."""
    import cloudpickle

    return bytes(cloudpickle.dumps(value))


@dataclass(frozen=True)
class _Job:
    """All that it takes to run a task elsewhere: nothing there has to be asked of the graph anew."""

    task: luigi.Task
    task_id: str
    upstream_ids: tuple[str, ...]
    run: Run
    settings: Mapping[str, Mapping[str, str]]
    worker_id: str
    post: _Address | str | None
    checks_upstream: bool
    checks_complete: bool

    @classmethod
    def of(cls, process: PooledTask, post: _Address | str | None) -> _Job:
        task = process.task
        upstream = dag.upstream_of(task) if dag.is_ours(task) else []
        return cls(
            task=task,
            task_id=task.task_id,
            upstream_ids=tuple(required.task_id for required in upstream),
            run=process.of_run,
            settings=configuration.of_this_call(),
            worker_id=process.worker_id,
            post=post,
            checks_upstream=process.check_unfulfilled_deps and not all(map(dag.is_known_complete, upstream)),
            checks_complete=process.check_complete_on_run,
        )

    def carry_out(self) -> Report:
        """Run the task in this process."""
        task: Any = self.task
        events: list[tuple[str, tuple[Any, ...]]] = []
        task.trigger_event = lambda event, *args: events.append((event, args[1:]))  # the caller's listeners count
        if dag.is_ours(task):
            identity.remember(task, self.task_id)
        collected = _Collector()
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
        with configuration.shared(self.settings), provenance.run(self.run.run_id), workplace.keeping_folders():
            with contextlib.suppress(Exception):  # it fails again where it is reported
                upstream = dag.upstream_of(task) if dag.is_ours(task) else []
                if len(upstream) == len(self.upstream_ids):
                    for required, known in zip(upstream, self.upstream_ids, strict=True):
                        if dag.is_ours(required):
                            identity.remember(required, known)
            process.run()
        report: Report = collected.report
        told = [(event, args) for event, args in events if event != Event.START]
        return Report(report.result, report.error, report.text, tuple(told))

    def _scheduler(self) -> Any:
        if isinstance(self.post, str):
            from luigi.rpc import RemoteScheduler

            return RemoteScheduler(self.post)
        return SchedulerAfar(functools.partial(_post, self.post))


class _Collector:
    """Takes the one report of a task that runs elsewhere."""

    report: Report

    def take(self, process: TaskProcess, report: Report) -> None:  # noqa: ARG002
        self.report = report


def _run_elsewhere(job: bytes, name: str) -> bytes:
    """Run a task in the pool's process; give the report, pickled, as classes of a notebook travel by value."""
    try:
        loaded: _Job = pickle.loads(job)  # noqa: S301  (bytes of our own caller)
    except Exception as error:
        message = (
            f"The pool's process {os.getpid()} on {socket.gethostname()} cannot load {name}: {error}. Let its module "
            "be importable there (install it, or set PYTHONPATH), in the same version."
        )
        raise ExecutorError(message) from error
    report = loaded.carry_out()
    try:
        data = _dumps(report)
        pickle.loads(data)  # noqa: S301  (just made)
    except Exception:  # noqa: BLE001  (an exception of the user's, or what an event was given, need not travel)
        return _dumps(Report(report.result, None, report.text or str(report.result[2])))
    return data


# What running tasks have to say


@dataclass(frozen=True)
class _Address:
    port: int
    key: bytes


class _Mailbox:
    """Takes calls to the scheduler from processes of this machine."""

    def __init__(self, results: Results) -> None:
        key = secrets.token_bytes(32)
        self._results = results
        self._listener = connection.Listener((_HERE, 0), authkey=key)
        self.address = _Address(self._listener.address[1], key)
        threading.Thread(target=self._listen, name="superluigi-mailbox", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                caller = self._listener.accept()
            except (multiprocessing.AuthenticationError, EOFError, ConnectionError):
                continue
            except OSError:  # it was closed
                return
            threading.Thread(target=self._read, args=(caller,), name="superluigi-mail", daemon=True).start()

    def _read(self, caller: connection.Connection) -> None:
        with contextlib.suppress(EOFError, OSError), caller:
            while True:
                self._results.take(None, caller.recv())

    def close(self) -> None:
        self._listener.close()


_posts: dict[_Address, Any] = {}
_posts_lock = threading.Lock()


def _post(address: _Address | None, call: Call) -> None:
    """Send a call to the scheduler of the run; one that cannot be sent, from another machine, is dropped."""
    try:
        with _posts_lock:
            if address is not None and address not in _posts:
                _posts.clear()
                _posts[address] = connection.Client((_HERE, address.port), authkey=address.key)
            if address is not None:
                _posts[address].send(call)
    except (OSError, EOFError, multiprocessing.AuthenticationError):
        _log.debug("%s did not reach the scheduler: %s", call.name, traceback.format_exc(limit=1))
