"""What the events of a run tell, kept for its report.

`Account` is a receiver as bars are. The invariant: while the run goes on, events are put away and nothing is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from superluigi.running.events import (
    RunEnded,
    RunStarted,
    TaskEnded,
    TaskEvent,
    TaskLeft,
    TaskPaused,
    TaskStarted,
    TaskStatus,
    TransferEvent,
)
from superluigi.running.lanes import Stretch
from superluigi.running.progress import Site

if TYPE_CHECKING:
    import datetime as dt

    from superluigi.running.events import ProgressEvent

PAUSED = "paused"  # what a stretch of a task ended with that went on later
LOST = "lost"  # or was run again, as its pool had broken


@dataclass(slots=True)
class Try:
    """A stretch in which a task ran, and how that ended."""

    stretch: Stretch
    state: str
    attempt: int
    reason: str


@dataclass(slots=True)
class TaskAccount:
    """What was told of one task."""

    task_id: str
    name: str
    family: str
    attempt: int = 0
    state: str = TaskStatus.STOPPED.value
    since: dt.datetime | None = None
    tries: list[Try] = field(default_factory=list)

    @property
    def took_s(self) -> float:
        """How long it ran, all tries together, without its pauses."""
        return sum(one.stretch.end_s - one.stretch.begin_s for one in self.tries)


class Account:
    """What the events of one run tell; call it with each."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskAccount] = {}
        self.transfers: dict[
            str, tuple[dt.datetime, TransferEvent]
        ] = {}  # since when each goes on, and what it was last
        self.begun: RunStarted | None = None
        self.ended: RunEnded | None = None
        self._left: list[tuple[TaskAccount, dt.datetime, TaskLeft]] = []

    def __call__(self, event: ProgressEvent) -> None:
        """Take an event."""
        if isinstance(event, TaskEvent):
            self._take(event)
        elif isinstance(event, TransferEvent):
            since, _ = self.transfers.get(event.transfer_id, (event.at, event))
            self.transfers[event.transfer_id] = since, event
        elif isinstance(event, RunStarted):
            self.begun = event
        elif isinstance(event, RunEnded):
            self.ended = event

    def _take(self, event: TaskEvent) -> None:
        told = self.tasks.get(event.task_id)
        if told is None:
            told = self.tasks[event.task_id] = TaskAccount(event.task_id, event.task, event.family)
        told.attempt = event.attempt
        if isinstance(event, TaskStarted):
            told.since = event.at
        elif isinstance(event, TaskLeft):
            told.state, _ = _ended_with(event)
            if told.since is not None:
                self._left.append((told, told.since, event))
                told.since = None

    def settle(self, began: dt.datetime) -> list[Stretch]:
        """Give when and where each task ran, by the time since the run began."""
        for told, since, event in self._left:
            site = Site(event.host, event.process_id, event.worker)
            begin_s = max(0.0, (since - began).total_seconds())
            stretch = Stretch(told.task_id, begin_s, max(begin_s, (event.at - began).total_seconds()), site)
            state, reason = _ended_with(event)
            told.tries.append(Try(stretch, state, event.attempt, reason))
        self._left.clear()
        return [one.stretch for told in self.tasks.values() for one in told.tries]


def _ended_with(event: TaskLeft) -> tuple[str, str]:
    if isinstance(event, TaskEnded):
        return event.status.value, event.reason
    reason = event.reason if isinstance(event, TaskPaused) else ""
    return LOST if reason else PAUSED, reason
