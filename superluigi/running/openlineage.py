"""OpenLineage events: what a run does, told to whatever the user has configured for the official client.

Off unless the client's own configuration names a transport; then nothing of it is imported. The worker tells what
begins and what ends, in the calling process, so that it is the same on every engine; one thread builds the events and
sends them. The invariant: nothing here fails a run or holds it up. What does not arrive is dropped, and said once.
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

from superluigi.targets.metadata import now

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Iterator, Sequence

    import luigi
    from openlineage.client import OpenLineageClient

    from superluigi.errors import TaskFailure
    from superluigi.running.openlineage_events import Builder
    from superluigi.running.openlineage_facts import Facts, Gatherer

_log = logging.getLogger("superluigi")

_END_WAIT_S = 2.0  # at the end of a run, for what is still to be sent
_END_WAIT_WHEN_DOWN_S = 0.1
_MAX_WAITING = 10_000  # events
_PREFIX = "OPENLINEAGE_"

_receiver_is_down = False  # as far as the last run in this process knows
_said: set[str] = set()


class Events:
    """Takes what happens in a run, and tells nobody."""

    def hand_out(self, task: luigi.Task, *, will_run: bool) -> None:
        """Take that it is a task's turn; without `will_run` it may turn out that it need not run."""

    def start(self, task: luigi.Task) -> None:
        """Take that a task runs that was handed out; a second time, or in another process, it says nothing."""

    def wait(self, task: luigi.Task) -> None:
        """Take that a task has yielded others, and goes on after them."""

    def complete(self, task: luigi.Task, yielded: Collection[luigi.Task]) -> None:
        """Take that a task has succeeded, and what it has yielded on the way."""

    def fail(self, task: luigi.Task, failure: TaskFailure) -> None:
        """Take that a task has failed; if it is tried again, that is another run of its job."""

    def drop(self, task: luigi.Task) -> None:
        """Take that a task is broken off, or need not run."""


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


class Emitter(Events):
    """Tells a client what happens in one run; safe between threads, and silent in processes that are forked."""

    def __init__(self, client: OpenLineageClient, builder: Builder, gatherer: Gatherer, whole: Attempt) -> None:
        self._client = client
        self._builder = builder
        self._gatherer = gatherer
        self._whole = whole
        self._secrets: frozenset[str] = frozenset()  # replaced, never changed: the other thread reads it
        self._handed_out: dict[luigi.Task, dt.datetime] = {}
        self._open: dict[luigi.Task, Attempt] = {}
        self._pid = os.getpid()
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

    def hand_out(self, task: luigi.Task, *, will_run: bool) -> None:
        """Note when it was a task's turn, and tell it at once where it is certain to run."""
        if task not in self._open:
            self._handed_out[task] = now()
            if will_run:
                self.start(task)

    def start(self, task: luigi.Task) -> None:
        """Tell that a task runs; the time is that when it was handed out."""
        if os.getpid() != self._pid or task not in self._handed_out:
            return
        at = self._handed_out.pop(task)
        try:
            facts = self._gatherer.facts(task)
        except Exception as error:  # noqa: BLE001  (whatever a user's class may do; the task itself will tell)
            self._complain(f"{type(task).__name__}: {type(error).__name__}: {error}")
            return
        self._secrets = self._secrets | facts.secrets if facts.secrets else self._secrets
        self._open[task] = Attempt(self._builder.new_id(), facts)
        self._tell(Happened("START", at, self._open[task]))

    def wait(self, task: luigi.Task) -> None:
        """Tell that the task has begun, if that was not certain before; it is still the same run."""
        self.start(task)

    def complete(self, task: luigi.Task, yielded: Collection[luigi.Task]) -> None:
        """Tell that a task has succeeded, and where its data are."""
        from superluigi.running.openlineage_facts import targets_of

        self.start(task)  # where it ran it was known that it has to; here it is known now
        if (attempt := self._open.pop(task, None)) is not None:
            self._tell(Happened("COMPLETE", now(), attempt, also_read=targets_of(yielded)))

    def fail(self, task: luigi.Task, failure: TaskFailure) -> None:
        """Tell that a task has failed, and why."""
        self.start(task)
        if (attempt := self._open.pop(task, None)) is not None:
            self._tell(Happened("FAIL", now(), attempt, failure.reason, failure.traceback))

    def drop(self, task: luigi.Task) -> None:
        """Tell that a task was broken off, if it had begun."""
        self._handed_out.pop(task, None)
        if (attempt := self._open.pop(task, None)) is not None:
            self._tell(Happened("ABORT", now(), attempt))

    def end(self, error: BaseException | None) -> None:
        """Tell that the run has ended, and wait a moment until that has arrived."""
        for task in tuple(self._open):  # they were killed with the run, or wait for what has failed
            self.drop(task)
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
def telling(run_id: str, roots: Sequence[luigi.Task]) -> Iterator[Events]:
    """Give what takes the events of a run, which begins and ends with the block."""
    emitter = _emitter(run_id, roots) if _may_be_configured() else None
    if emitter is None:
        yield Events()
        return
    emitter.begin()
    try:
        yield emitter
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


def _emitter(run_id: str, roots: Sequence[luigi.Task]) -> Emitter | None:
    try:
        from openlineage.client import OpenLineageClient

        from superluigi.running.openlineage_events import Builder
    except ImportError as error:
        message = f"OpenLineage is configured, but {error}. Install 'superluigi[openlineage]'. Nothing is sent."
        if message not in _said:
            _said.add(message)
            _log.warning(message)
        return None
    from superluigi.running.openlineage_facts import Code, Facts, Gatherer, job_name_of_run

    try:
        client = _configured(OpenLineageClient)
    except Exception as error:  # noqa: BLE001  (whatever the user's configuration leads to)
        _log.warning("OpenLineage is configured, but its client refuses that: %s. Nothing is sent.", error)
        return None
    if client is None:
        return None
    whole = Attempt(Builder.id_of(run_id), Facts(Code(job_name_of_run(roots)), run_id), is_task=False)
    return Emitter(client, Builder(whole, run_id, os.getcwd()), Gatherer(), whole)


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
