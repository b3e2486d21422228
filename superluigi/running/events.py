"""What a run tells of itself while it goes on: the records that `run_task(progress=...)` hands to a callable.

Facts only: who makes them is `progress`, who shows them `bars`. The invariant: a record never changes, pickles, and
says all that there is to say of its moment, so that a receiver need not keep the ones before it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from superluigi.storage.observation import TransferDirection

if TYPE_CHECKING:
    import datetime as dt

__all__ = [
    "ProgressEvent",
    "RunEnded",
    "RunStarted",
    "Tally",
    "TaskEnded",
    "TaskEvent",
    "TaskLeft",
    "TaskPaused",
    "TaskStarted",
    "TaskStatus",
    "TasksAdded",
    "TransferDirection",
    "TransferEnded",
    "TransferEvent",
    "TransferProgressed",
    "TransferStarted",
]


class TaskStatus(str, enum.Enum):
    """How a try to make a task ended; each is also the text that it is named by."""

    DONE = "done"
    MADE_ELSEWHERE = "made elsewhere"  # when it was its turn it turned out that it need not run: another run made it,
    # or what is upstream came out as before
    FAILED = "failed"  # it is tried again if Luigi's settings say so
    STOPPED = "stopped"  # the run ended while it ran: by Ctrl-C, or by what another task raised


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many tasks of the run are how far. Complete ones, which need not run, do not count.

    - `total`: how many there are to run, as far as is known: `done + running + failed + remaining`.
    - `done`: how many were made, by this run or meanwhile by another one.
    - `running`: how many run now.
    - `failed`: how many failed when they were last tried, or were stopped.
    - `remaining`: how many have not begun, wait for what they have yielded, or have to be made once more.
    - `left_s`: how long the rest takes, in seconds: by how long tasks of the same class took, in this run and in former
      ones, and by how many run at a time. None as long as nothing is known.
    """

    total: int
    done: int
    running: int
    failed: int
    remaining: int
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """Something that happened in a run.

    - `run_id`: the id of the run, 32 hex characters, as in the lineage records.
    - `at`: when it happened, in UTC.
    """

    run_id: str
    at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(ProgressEvent):
    """It is known what there is to run.

    - `complete`: how many tasks were found complete, and need not run; nothing upstream of them was looked at.
    - `tally`: all tasks remain.
    """

    complete: int
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksAdded(ProgressEvent):
    """More is to run: a task has yielded others, or what it requires has vanished.

    - `count`: how many tasks more.
    - `tally`: with them.
    """

    count: int
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent(ProgressEvent):
    """Something that happened to a task.

    - `task_id`: its id.
    - `task`: how it is called, with its public parameters: `Totals(date=2022-12-15)`.
    - `family`: Luigi's name of its class.
    - `attempt`: which try it is, from 1 on. A task that goes on after a pause is in the same one.
    - `tally`: how many tasks are how far, this one counted as it is now.
    """

    task_id: str
    task: str
    family: str
    attempt: int
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted(TaskEvent):
    """A task begins to run, or goes on after a pause (then with the same `attempt`).

    In a pool it is told when the task begins there, however long it was queued. Where that machine cannot say so, it
    is told when the task has ended or pauses, and `at` is as long before as the task ran.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLeft(TaskEvent):
    """A task runs no longer, for now or for good.

    - `host`: the name of the machine that it ran on; empty where that is not known.
    - `process_id`: the process there: that of `run_task` itself, one of the task's own, or one of a pool. None where it
      is not known, as when a pool on other machines was lost with it.
    - `worker`: the address of the Dask worker that it ran on; empty for all others.
    """

    host: str = ""
    process_id: int | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPaused(TaskLeft):
    """A task does not run for now: it has yielded others, which have to be made first, or its pool was lost.

    - `reason`: why its pool was lost with it, in a line, so that it is run again from its beginning, as the same
      `attempt`; empty where it has yielded.
    """

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded(TaskLeft):
    """A try to make a task has ended.

    - `status`: how.
    - `duration_s`: how long it ran, in seconds, without its pauses, the time in the queue of a pool, and what was lost
      with one; 0 where it turned out that it need not run.
    - `reason`: why it failed, in a line; empty where it did not.
    """

    status: TaskStatus
    duration_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEvent(ProgressEvent):
    """Something that happened to a transfer of more than a few megabytes (`WATCHED_BYTES`), all objects together.

    - `transfer_id`: tells it from all others, 32 hex characters.
    - `task_id`: the id of the task that sends or fetches; empty where none does, as with `local_output`.
    - `address`: the `s3://` address of the object, or of what the objects have in common, which ends in a slash.
    - `direction`: upload or download.
    - `total_bytes`: the size of the objects, in bytes.
    - `done_bytes`: how many bytes were sent or have arrived. It falls where a part is sent or fetched again.
    """

    transfer_id: str
    task_id: str
    address: str
    direction: TransferDirection
    total_bytes: int
    done_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStarted(TransferEvent):
    """A transfer begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgressed(TransferEvent):
    """A transfer goes on. Told four times a second at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEnded(TransferEvent):
    """A transfer is over.

    - `duration_s`: how long it took, in seconds.
    - `is_whole`: whether all was sent, or all arrived; else it broke off.
    """

    duration_s: float
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(ProgressEvent):
    """The run is over, and so are all its transfers. The last event.

    - `tally`: how many tasks got how far.
    - `duration_s`: how long it took, in seconds, from the moment at which it was known what is forced.
    - `is_success`: whether `run_task` gives the outputs; else it raises.
    """

    tally: Tally
    duration_s: float
    is_success: bool
