"""What the report of a run tells: its account, and what the run knows of its tasks, put into words, rows and bars.

Nothing here runs, asks whether data are there, or draws. The invariant: only what everybody may see is told.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import socket
import sys
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import luigi

from superluigi import dag, provenance
from superluigi.errors import TaskFailedError, public_name
from superluigi.failures import said_by
from superluigi.markup import Tone, duration
from superluigi.pictures.timeline import Bar, Item, Look, Row, Story, Table, Timeline
from superluigi.plans import Verdict
from superluigi.running.account import LOST, PAUSED
from superluigi.running.events import TaskStatus, TransferEnded
from superluigi.running.lanes import Stretch, assigned, lanes_of, longest_chain
from superluigi.staleness import in_short
from superluigi.storage.observation import WATCHED_BYTES, TransferDirection
from superluigi.targets.memory import NoTarget, PathlessTarget
from superluigi.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from superluigi.errors import TaskFailure
    from superluigi.running.account import Account, TaskAccount, Try
    from superluigi.running.events import TransferEvent
    from superluigi.running.state import Run

_DONE, _FAILED = TaskStatus.DONE.value, TaskStatus.FAILED.value
_NOT_RUN, _BROKE_OFF, _INTERRUPTED = "did not run", "broke off", "interrupted"
_MADE_ELSEWHERE, _AS_BEFORE = TaskStatus.MADE_ELSEWHERE.value, "still up to date"
_LOOKS = {
    _DONE: Look("✓", Tone.GOOD),
    _FAILED: Look("✗", Tone.BAD),
    TaskStatus.STOPPED.value: Look("■", Tone.NOTE),
    _MADE_ELSEWHERE: Look("≡", Tone.FAINT),
    _AS_BEFORE: Look("≡", Tone.FAINT),
    PAUSED: Look("‖", Tone.FAINT),
    LOST: Look("✗", Tone.NOTE),
    _NOT_RUN: Look("○", Tone.FAINT),
    _INTERRUPTED: Look("■", Tone.NOTE),
    TransferDirection.UPLOAD.value: Look("↑", Tone.PLAIN),
    TransferDirection.DOWNLOAD.value: Look("↓", Tone.PLAIN),
    _BROKE_OFF: Look("✗", Tone.BAD),
}
_MAX_NAMED = 20  # outputs, inputs and the like of one task
_MAX_FRAMES = 12


class Telling:
    """Makes of an account, and of what the run knows of its tasks, what the page shows."""

    def __init__(
        self,
        account: Account,
        run: Run,
        roots: Sequence[luigi.Task],
        tasks: dict[str, luigi.Task],
        raised: BaseException | None,
        *,
        is_async: bool,
    ) -> None:
        self._account = account
        self._run = run
        self._roots = roots
        self._raised = raised
        self._tasks = tasks  # all that there were to run, by their ids
        self._mask = provenance.Mask()
        assert account.ended is not None
        self._ended = account.ended
        self._began = account.ended.at - dt.timedelta(seconds=account.ended.duration_s)
        self._stretches = account.settle(self._began)
        self._lanes = lanes_of(self._stretches, is_async=is_async)
        self._ran = [told for told in account.tasks.values() if told.tries]
        self._yielders: dict[luigi.Task, list[luigi.Task]] = defaultdict(list)
        for reader, yielded in run.yielded.items():
            for task in yielded:
                self._yielders[task].append(reader)
        self._chain = longest_chain(self._stretches, self._before)
        self._chained = set(dict.fromkeys(stretch.task_id for stretch in self._chain))
        self._numbers: dict[str, int] = {}  # of items, by task id

    def timeline(self) -> Timeline:
        """Give all that the page tells."""
        items = self._items()
        bars = self._bars()
        rows = [Row(lane.name, _share(lane.busy_s, self._ended.duration_s)) for lane in self._lanes]
        transfers, transfer_rows = self._transfers(len(rows))
        marked = f"the longest chain: {_count(len(self._chained), 'task')}" if len(self._chained) > 1 else ""
        return Timeline(
            title=f"Run of {self._asked_for()}",
            state=self._state(),
            facts=self._facts(),
            duration_s=self._ended.duration_s,
            began_at_s=self._began.timestamp(),
            looks=_LOOKS,
            rows=[*rows, *transfer_rows],
            bars=[*bars, *transfers],
            items=items,
            stories=self._stories(),
            tables=[table for table in (self._families(), self._transfer_table()) if table.rows],
            marked=marked,
            notes=self._notes(),
        )

    def _state(self) -> str:
        if self._ended.is_success:
            return _DONE
        return _FAILED if isinstance(self._raised, Exception) else _INTERRUPTED

    def _asked_for(self) -> str:
        names = [public_name(root) for root in self._roots]
        return names[0] if len(names) == 1 else f"{names[0]} and {_count(len(names) - 1, 'other task')}"

    # The head

    def _facts(self) -> list[tuple[str, str]]:
        ended, begun = self._ended, self._account.begun
        retried = sum(told.attempt > 1 for told in self._account.tasks.values())
        facts = [
            ("began", f"{self._began:%Y-%m-%d %H:%M:%S} UTC"),
            ("ended", f"{ended.at:%Y-%m-%d %H:%M:%S} UTC"),
            ("took", duration(ended.duration_s)),
            ("tasks", ", ".join(self._counts())),
            ("found complete", "not known" if begun is None else _count(begun.complete, "task")),
        ]
        if retried:
            facts.append(("tried more than once", _count(retried, "task")))
        busy_s = sum(lane.busy_s for lane in self._lanes)
        if self._ran and ended.duration_s > 0:
            share = _share(busy_s, ended.duration_s * len(self._lanes))
            facts.append(("at a time", f"{busy_s / ended.duration_s:.1f} tasks on average, at most {len(self._lanes)}"))
            facts.append(("workers", f"{share}, {duration(busy_s)} together"))
        if len(self._chained) > 1:
            work_s = sum(stretch.end_s - stretch.begin_s for stretch in self._chain)
            waited_s = max(0.0, self._chain[-1].end_s - work_s)
            said = f"{duration(work_s)} at work and {duration(waited_s)} of waiting"
            facts.append(("longest chain", f"{_count(len(self._chained), 'task')}, {said}"))
        if begun is not None:
            looked_s = (begun.at - self._began).total_seconds()
            facts.append(("looked for what is there", duration(max(0.0, looked_s))))
        return [*facts, *self._circumstances()]

    def _counts(self) -> Iterator[str]:
        tally = self._ended.tally
        states = Counter(map(self._state_of, self._account.tasks.values()))
        elsewhere, as_before, stopped = states[_MADE_ELSEWHERE], states[_AS_BEFORE], states[TaskStatus.STOPPED.value]
        paused, lost = states[PAUSED], states[LOST]  # and nothing came after that
        yield f"{tally.done - elsewhere - as_before} done"
        for count, name in (
            (elsewhere, _MADE_ELSEWHERE),
            (as_before, _AS_BEFORE),
            (tally.failed - stopped, "failed"),
            (stopped, "stopped"),
            (paused, PAUSED),
            (lost, LOST),
            (tally.remaining - paused - lost, _NOT_RUN),
        ):
            if count:
                yield f"{count} {name}"

    def _circumstances(self) -> Iterator[tuple[str, str]]:
        program = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else ""  # the rest may hold what is private
        yield "run", self._run.run_id
        yield "program", program or "python"
        user = provenance.user()
        yield "host", f"{user}@{socket.gethostname()}" if user else socket.gethostname()
        ours = sys.modules["superluigi"].__version__
        yield "versions", f"superluigi {ours}, luigi {luigi.__version__}, Python {platform.python_version()}"
        if self._raised is not None and not self._run.failures and not isinstance(self._raised, TaskFailedError):
            text = said_by(self._raised)
            for task in [*self._roots, *self._tasks.values()]:
                text = self._masked(task, text)
            yield "ended by", text

    def _notes(self) -> list[str]:
        if not self._account.tasks and self._ended.is_success:
            return ["Nothing had to run: everything was complete."]
        return []

    # Tasks

    def _state_of(self, told: TaskAccount) -> str:
        """Give how a task ended; of one that did not have to run, whether that is because nothing upstream changed."""
        plan, task = self._run.plan, self._tasks.get(told.task_id)
        if told.state != _MADE_ELSEWHERE or plan is None or task is None or task not in plan:
            return told.state
        return _AS_BEFORE if plan[task].verdict is Verdict.UNKNOWN else told.state

    def _items(self) -> list[Item]:
        items: list[Item] = []
        with dag.outputs_held():
            for told in self._account.tasks.values():
                self._numbers[told.task_id] = len(items)
                task = self._tasks.get(told.task_id)
                items.append(
                    Item(
                        name=told.name,
                        family=told.family,
                        state=self._state_of(told),
                        tries=told.attempt if told.tries else 0,
                        begin_s=told.tries[0].stretch.begin_s if told.tries else None,
                        took_s=told.took_s,
                        why=self._why(task),
                        where=self._lanes[told.tries[-1].stretch.lane].name if told.tries else "",
                        is_marked=told.task_id in self._chained,
                        more=self._more(task, told.task_id),
                    )
                )
            for task_id, task in self._tasks.items():
                if task_id not in self._account.tasks:
                    self._numbers[task_id] = len(items)
                    more = [*self._more(task, task_id), ("waited for", self._undone(task))]
                    name, family = public_name(task), task.get_task_family()
                    items.append(Item(name, family, _NOT_RUN, 0, None, 0.0, self._why(task), "", more=more))
        return items

    def _more(self, task: luigi.Task | None, task_id: str) -> list[tuple[str, list[str]]]:
        more = [("id", [task_id])]
        with contextlib.suppress(Exception):  # the user's output() may fail, and perhaps that is what failed
            targets = [self._masked(task, dag.place_of(target)) for target in self._targets(task)]
            more.append(("output", _cut(targets)))
        return more

    def _undone(self, task: luigi.Task) -> list[str]:
        """Give what a task that did not run needs, and that is not done either."""
        done = self._run.done
        return _cut([public_name(one) for one in self._run.requirements.get(task, ()) if self._is_undone(one, done)])

    def _is_undone(self, task: luigi.Task, done: set[luigi.Task]) -> bool:
        return task not in done and str(task.task_id) in self._tasks

    def _why(self, task: luigi.Task | None) -> str:
        """Say why a task was to run: by the plan, if the run went by one, else by what can be told without asking."""
        if task is None:
            return ""
        plan = self._run.plan
        if plan is not None and task in plan and plan[task].reasons:
            return self._masked(task, in_short(plan[task].reasons))
        if self._run.forcing.includes(task):
            return "it was forced"
        if dag.is_group(type(task)):
            return "something that it groups was to run"
        with contextlib.suppress(Exception):  # of the user's output()
            return self._masked(task, _by_outputs(task, self._targets(task)))
        return ""

    def _targets(self, task: luigi.Task | None) -> list[Any]:
        return [] if task is None else dag.targets(task)

    def _masked(self, task: luigi.Task | None, text: str) -> str:
        return text if task is None else self._mask(text, task, self._run.requirements.get(task, ()))

    def _before(self, stretch: Stretch) -> Iterator[Stretch]:
        """Give when what a task needs ran, and who has yielded it, and the task itself, that has gone on or failed."""
        task = self._tasks.get(stretch.task_id)
        needed = [] if task is None else [*self._run.requirements.get(task, ()), *self._run.yielded.get(task, ())]
        needed += [] if task is None else self._yielders.get(task, ())
        for task_id in (stretch.task_id, *(str(required.task_id) for required in needed)):
            if (told := self._account.tasks.get(task_id)) is not None:
                yield from (one.stretch for one in told.tries)

    def _bars(self) -> list[Bar]:
        return [
            Bar(
                row=one.stretch.lane,
                begin_s=one.stretch.begin_s,
                end_s=one.stretch.end_s,
                state=one.state,
                label=told.family,
                item=self._numbers[told.task_id],
                note=self._masked(self._tasks.get(told.task_id), _note(one)),
            )
            for told in self._ran
            for one in told.tries
        ]

    def _families(self) -> Table:
        by_family: dict[str, list[TaskAccount]] = defaultdict(list)
        for told in self._ran:
            by_family[told.family].append(told)
        rows: list[Sequence[Any]] = []
        for family, all_told in by_family.items():
            took = [told.took_s for told in all_told]
            failed = sum(told.state == _FAILED for told in all_told)
            rows.append([family, len(took), failed, sum(took), sum(took) / len(took), min(took), max(took)])
        rows.sort(key=lambda row: -row[3])
        head = ["class", "tasks", "failed", "total", "mean", "least", "most"]
        return Table("Durations by class", head, ["", "", "", "s", "s", "s", "s"], rows)

    # Failures

    def _stories(self) -> list[Story]:
        failures: dict[int, tuple[TaskFailure, luigi.Task | None]] = {}
        if isinstance(self._raised, TaskFailedError):  # also what is made elsewhere, and missing
            by_name = {public_name(task): task for task in self._run.requirements}
            failures = {id(one): (one, by_name.get(one.task)) for one in self._raised.failures}
        failures |= {id(failure): (failure, task) for task, failure in self._run.failures.items()}
        return [self._story(failure, task) for failure, task in failures.values()]

    def _story(self, failure: TaskFailure, task: luigi.Task | None) -> Story:
        frames = [line for frame in failure.frames[-_MAX_FRAMES:] for line in str(frame).split("\n")]
        inputs = [f"{given.role} = {given.path}" if given.role else given.path for given in failure.inputs]
        log = [] if failure.log is None else [failure.log + (f" on {failure.host}" if failure.host else "")]
        told = [("where", frames), ("inputs", _cut(inputs)), ("log", log)]
        trace = failure.traceback.strip()
        return Story(
            title=failure.task,
            why=self._masked(task, failure.reason),
            told=[(name, [self._masked(task, line) for line in lines]) for name, lines in told],
            text=self._masked(task, trace) if failure.exception is not None or "\n" in failure.traceback else "",
            item=-1 if task is None else self._numbers.get(str(task.task_id), -1),
        )

    # Transfers

    def _transfers(self, first: int) -> tuple[list[Bar], list[Row]]:
        told = sorted(self._transfers_told(), key=lambda one: one[1])
        lanes = assigned([(begin_s, end_s) for _, begin_s, end_s in told])
        bars = []
        for (event, begin_s, end_s), lane in zip(told, lanes, strict=True):
            is_whole = isinstance(event, TransferEnded) and event.is_whole
            address = self._address(event)
            label = f"{event.direction.value} of {address}"
            note = "" if is_whole else f"broke off after {event.done_bytes:,} of {event.total_bytes:,} bytes"
            item = self._numbers.get(event.task_id, -1)
            state = event.direction.value if is_whole else _BROKE_OFF
            bars.append(Bar(first + lane, begin_s, end_s, state, label, item, note or f"{event.total_bytes:,} bytes"))
        count = max(lanes, default=-1) + 1
        return bars, [Row(f"transfer {number + 1}" if count > 1 else "transfers") for number in range(count)]

    def _transfers_told(self) -> Iterator[tuple[TransferEvent, float, float]]:
        for since, event in self._account.transfers.values():
            begin_s = max(0.0, (since - self._began).total_seconds())
            is_over = isinstance(event, TransferEnded)
            end_s = (event.at - self._began).total_seconds() if is_over else self._ended.duration_s
            yield event, begin_s, max(begin_s, end_s)

    def _address(self, event: TransferEvent) -> str:
        return self._masked(self._tasks.get(event.task_id), event.address)

    def _transfer_table(self) -> Table:
        rows = []
        for event, begin_s, end_s in self._transfers_told():
            took_s = event.duration_s if isinstance(event, TransferEnded) else end_s - begin_s
            is_whole = isinstance(event, TransferEnded) and event.is_whole
            told = self._account.tasks.get(event.task_id)
            state = event.direction.value if is_whole else f"{event.direction.value}, {_BROKE_OFF}"
            rate = event.done_bytes / took_s if took_s > 0 else 0.0
            rows.append(
                [state, self._address(event), event.done_bytes, begin_s, took_s, rate, told.name if told else ""]
            )
        head = ["direction", "address", "bytes", "began", "took", "rate", "task"]
        title = f"Transfers of more than {WATCHED_BYTES >> 20} MiB"
        return Table(title, head, ["", "", "B", "s", "s", "B/s", ""], rows)


def _by_outputs(task: luigi.Task, targets: Sequence[Any]) -> str:
    if not isinstance(task, Task) or task.has_own_complete():
        return "its complete() said no"
    if all(isinstance(target, NoTarget) for target in targets):
        return "it has nothing that could exist, so it runs in every run"
    if all(isinstance(target, PathlessTarget) for target in targets):
        return "its value was needed, which does not outlive a run"
    return f"{targets[0]} was not there" if len(targets) == 1 else f"not all of its {len(targets)} outputs were there"


def _note(one: Try) -> str:
    site = one.stretch.site
    parts = [
        f"try {one.attempt}" if one.attempt > 1 else "",
        f"process {site.process_id} on {site.host}" if site.process_id is not None else "",
        one.reason,
    ]
    return ", ".join(filter(None, parts))


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_NAMED
    return lines if more <= 0 else [*lines[:_MAX_NAMED], f"and {more} more"]


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} % busy" if whole > 0 else ""
