"""OpenLineage events: what a run does, told to whatever the user has configured for the official client.

Off unless the client's own configuration names a transport; then nothing of it is imported. `Emitter` follows a run as
bars do, in the calling process, so that it is the same on every engine; one thread builds the events and sends them.
The invariant: nothing here fails a run or holds it up. What does not arrive is dropped, and said once.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import queue
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from superluigi import dag
from superluigi.running.events import TaskEnded, TaskStarted, TaskStatus
from superluigi.targets.metadata import now

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    import luigi
    from openlineage.client import OpenLineageClient

    from superluigi.running.events import ProgressEvent
    from superluigi.running.openlineage_facts import Facts
    from superluigi.running.progress import Progress
    from superluigi.running.state import Run

_log = logging.getLogger("superluigi")

_END_WAIT_S = 2.0  # at the end of a run, for what is still to be sent
_END_WAIT_WHEN_DOWN_S = 0.1
_MAX_WAITING = 10_000  # events
_PREFIX = "OPENLINEAGE_"

_receiver_is_down = False  # as far as the last run in this process knows
_said: set[str] = set()


@dataclass(frozen=True)
class Attempt:
    """One run of one job, as OpenLineage counts: a task that is tried again, or made again, is run again."""

    run_id: str
    facts: Facts
    is_task: bool = True


@dataclass(frozen=True)
class Happened:
    """What is to be told: which of START, COMPLETE, FAIL and ABORT, and when it was."""

    kind: str
    at: dt.datetime
    attempt: Attempt
    message: str = ""
    trace: str = ""
    also_read: tuple[Any, ...] = field(default=())  # targets of what was yielded


class Emitter:
    """A receiver of what happens in one run, which tells it to a client. Safe between threads."""

    def __init__(self, client: OpenLineageClient, whole: Attempt, run: Run, progress: Progress) -> None:
        from superluigi.running.openlineage_events import Builder
        from superluigi.running.openlineage_facts import Gatherer

        self._client = client
        self._whole = whole
        self._run = run
        self._progress = progress
        self._builder = Builder(whole, run.run_id, os.getcwd())
        self._gatherer = Gatherer()
        self._secrets: frozenset[str] = frozenset()  # replaced, never changed: the other thread reads it
        self._open: dict[str, Attempt] = {}  # by the ids of tasks
        self._waiting: queue.SimpleQueue[Happened | None] = queue.SimpleQueue()
        self._told = self._taken = 0
        self._is_abandoned = False
        self._complaining = threading.Lock()
        self._has_complained = False
        # In the context of the run, where what is known of tasks and targets is that of the run.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._send_all,), name="superluigi-openlineage", daemon=True
        )

    # What happens, in the threads of the run

    def begin(self) -> None:
        """Tell that the run begins."""
        self._thread.start()
        self._tell(Happened("START", now(), self._whole))

    def __call__(self, event: ProgressEvent) -> None:
        """Tell that a task begins, and how it ends; one that goes on after a pause is still the same run."""
        if isinstance(event, TaskStarted) and event.task_id not in self._open:
            self._start(event)
        elif isinstance(event, TaskEnded) and (attempt := self._open.pop(event.task_id, None)) is not None:
            self._tell(self._ended(event, attempt))

    def _start(self, event: TaskStarted) -> None:
        task = self._progress.task(event.task_id)
        if dag.is_external(task):
            return
        try:
            facts = self._gatherer.facts(task)
        except Exception as error:  # noqa: BLE001  (whatever a user's class may do; the task itself will tell)
            self._complain(f"{type(task).__name__}: {type(error).__name__}: {error}")
            return
        self._secrets = self._secrets | facts.secrets if facts.secrets else self._secrets
        attempt = self._open[event.task_id] = Attempt(self._builder.new_id(), facts)
        self._tell(Happened("START", event.at, attempt))

    def _ended(self, event: TaskEnded, attempt: Attempt) -> Happened:
        from superluigi.running.openlineage_facts import targets_of

        task = self._progress.task(event.task_id)
        if event.status is TaskStatus.DONE:
            return Happened("COMPLETE", event.at, attempt, also_read=targets_of(self._run.yielded.get(task, ())))
        if event.status is TaskStatus.FAILED:
            failure = self._run.failures[task]
            return Happened("FAIL", event.at, attempt, failure.reason, failure.traceback)
        return Happened("ABORT", event.at, attempt)

    def end(self, error: BaseException | None) -> None:
        """Tell that the run has ended, and wait a moment until that has arrived."""
        for attempt in self._open.values():  # they were killed with the run, or wait for what has failed
            self._tell(Happened("ABORT", now(), attempt))
        self._open.clear()
        if error is None:
            self._tell(Happened("COMPLETE", now(), self._whole))
        elif isinstance(error, Exception):
            self._tell(Happened("FAIL", now(), self._whole, f"{type(error).__name__}: {error}"))
        else:
            self._tell(Happened("ABORT", now(), self._whole))
        self._waiting.put(None)
        self._thread.join(_END_WAIT_WHEN_DOWN_S if _receiver_is_down else _END_WAIT_S)
        if self._thread.is_alive():
            self._abandon()

    def _tell(self, happened: Happened) -> None:
        if self._told - self._taken >= _MAX_WAITING:
            self._complain(f"{_MAX_WAITING} of them wait to be sent")
            return
        self._told += 1
        self._waiting.put(happened)

    def _abandon(self) -> None:
        global _receiver_is_down  # noqa: PLW0603  (one for the process is the point)
        self._is_abandoned = _receiver_is_down = True
        self._complain(f"{self._told - self._taken} of {self._told} could not be sent in time")

    # In the thread that sends

    def _send_all(self) -> None:
        global _receiver_is_down  # noqa: PLW0603
        with _retries_unsaid():
            for happened in iter(self._waiting.get, None):
                if self._is_abandoned:
                    break
                try:
                    self._client.emit(self._builder.event(happened, self._secrets))
                except Exception as error:  # noqa: BLE001  (a transport may fail in whatever way)
                    self._complain(f"{type(error).__name__}: {error}")
                else:
                    _receiver_is_down = False
                self._taken += 1
            with contextlib.suppress(Exception):
                self._client.close(0 if self._is_abandoned else _END_WAIT_S)

    def _complain(self, reason: str) -> None:
        with self._complaining:
            if self._has_complained:
                return
            self._has_complained = True
        from superluigi.provenance import masked

        reason = re.sub(r"//[^/\s@]*@", "//***@", masked(reason, self._secrets))
        _log.warning("OpenLineage events of this run are lost: %s. The run itself goes on without them.", reason)


@contextlib.contextmanager
def _retries_unsaid() -> Iterator[None]:
    """Keep what the HTTP transport warns of at each of its tries in this thread out of the log: it is said once."""
    mine = threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != mine or record.levelno > logging.WARNING

    log = logging.getLogger("urllib3.connectionpool")
    log.addFilter(is_of_others)
    try:
        yield
    finally:
        log.removeFilter(is_of_others)


# Whether there is anybody to tell


@contextlib.contextmanager
def telling(run: Run, roots: Sequence[luigi.Task], progress: Progress) -> Iterator[None]:
    """Follow a run, which begins and ends with the block, if there is anybody to tell of it."""
    emitter = _emitter(run, roots, progress) if _may_be_configured() else None
    if emitter is None:
        yield
        return
    emitter.begin()
    progress.follow(emitter)
    try:
        yield
    except BaseException as error:
        emitter.end(error)
        raise
    emitter.end(None)


def _may_be_configured() -> bool:
    """Say whether the client would find a configuration, where it looks for one; without asking the client."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").lower().strip() == "true":
        return False
    if os.environ.get("OPENLINEAGE_URL") or any(name.startswith("OPENLINEAGE__TRANSPORT") for name in os.environ):
        return True
    folders = (os.curdir, os.path.expanduser("~/.openlineage"))
    files = [os.environ.get("OPENLINEAGE_CONFIG"), *(os.path.join(folder, "openlineage.yml") for folder in folders)]
    return any(os.path.isfile(file) for file in files if file)


def _emitter(run: Run, roots: Sequence[luigi.Task], progress: Progress) -> Emitter | None:
    try:
        from openlineage.client import OpenLineageClient

        from superluigi.running.openlineage_events import Builder
    except ImportError as error:
        message = f"OpenLineage is configured, but {error}. Install 'superluigi[openlineage]'. Nothing is sent."
        if message not in _said:
            _said.add(message)
            _log.warning(message)
        return None
    from superluigi.running.openlineage_facts import Code, Facts, job_name_of_run

    try:
        client = _configured(OpenLineageClient)
    except Exception as error:  # noqa: BLE001  (whatever the user's configuration leads to)
        _log.warning("OpenLineage is configured, but its client refuses that: %s. Nothing is sent.", error)
        return None
    if client is None:
        return None
    whole = Attempt(Builder.id_of(run.run_id), Facts(Code(job_name_of_run(roots)), run.run_id), is_task=False)
    return Emitter(client, whole, run, progress)


def _configured(client_cls: type[OpenLineageClient]) -> OpenLineageClient | None:
    """Give the client as it is configured; None if no transport is, as it would write to the console then."""
    from openlineage.client.transport.noop import NoopConfig, NoopTransport

    before = dict(os.environ)
    try:
        named = client_cls(transport=NoopTransport(NoopConfig())).config.transport or {}
        if not named.get("type") and not os.environ.get("OPENLINEAGE_URL"):
            return None
        client = client_cls()
    finally:
        for name in [name for name in os.environ if name.startswith(_PREFIX) and name not in before]:
            del os.environ[name]  # the client puts its short settings into the environment in their long form
    return None if client.transport.kind == NoopTransport.kind else client
