"""What a run would do, task by task, and why: run, skip, or not known until what is upstream has run.

Nothing here runs a task or touches an output. The invariant: what a plan says of a task is what the run itself finds:
with `rerun_stale` the run goes by the plan, and without it the worker looks at one level of the graph after the other
(`running.worker`), by the same rules. A plan is a value, kept nowhere.
"""

from __future__ import annotations

import enum
import json
import statistics
import traceback
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import luigi

from superluigi import dag, garbage, markup, visuals
from superluigi.errors import ConfigError, CycleError, TaskFailedError, TaskTypeError, public_name
from superluigi.execution import copies_inputs
from superluigi.failures import failure_of, remember
from superluigi.markup import Tone
from superluigi.outlook import Outlook
from superluigi.staleness import (
    Cause,
    Reason,
    Sight,
    gives_values,
    has_record,
    in_short,
    is_cleaned_up,
    own_outputs,
    stale_because,
)
from superluigi.targets import Target
from superluigi.targets.foresight import foresight
from superluigi.targets.memory import Memory, NoTarget, PathlessTarget, holding
from superluigi.targets.s3 import ask_together, is_remote
from superluigi.tasks import Task, TaskWithCleanup
from superluigi.unsettled import Unsettled, changed_since, read_by

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from superluigi.forcing import Forcing
    from superluigi.targets.metadata import Metadata
    from superluigi.unsettled import Read


class Verdict(enum.Enum):
    """What becomes of a task; the value is the word for it in tables and JSON."""

    RUN = "run"
    UNKNOWN = "unknown"  # until what is upstream has run: it is skipped if that comes out as before
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Planned:
    """One task of a plan. What it is expected to take is that of former records, None if there are none.

    `download_bytes` is what it brings here first of its inputs in S3, None if that is not known.
    """

    task: luigi.Task
    verdict: Verdict
    reasons: tuple[Reason, ...] = ()
    download_bytes: int | None = None
    expected_s: float | None = None
    expected_bytes: int | None = None

    def to_dict(self) -> Metadata:
        """Give it as JSON's own types."""
        return {
            "task": public_name(self.task),
            "task_family": self.task.get_task_family(),
            "task_id": self.task.task_id,
            "verdict": self.verdict.value,
            "reasons": [reason.to_dict() for reason in self.reasons],
            "download_bytes": self.download_bytes,
            "expected_s": self.expected_s,
            "expected_bytes": self.expected_bytes,
        }


class Plan:
    """What a run would do with each task that it looks at, each after all that it requires. Iterate, or ask by task."""

    def __init__(
        self,
        tasks: Iterable[Planned],
        before: Mapping[luigi.Task, Read] | None = None,
        settled: Collection[luigi.Task] = (),
    ) -> None:
        self.tasks = tuple(tasks)
        self.before = before or {}  # what those had read whose records do not tell, and that may have to follow
        self.settled = settled  # what an earlier run has kept of these no longer counts
        self._by_task = {planned.task: planned for planned in self.tasks}

    def __iter__(self) -> Iterator[Planned]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __contains__(self, task: object) -> bool:
        return task in self._by_task

    def __getitem__(self, task: luigi.Task) -> Planned:
        return self._by_task[task]

    def part(self, tasks: Collection[luigi.Task]) -> Plan:
        """Give the same plan for some of its tasks, such as travel with one of them."""
        before = {task: self.before[task] for task in tasks if task in self.before}
        return Plan([self._by_task[task] for task in tasks if task in self._by_task], before)

    def joined(self, other: Plan) -> Plan:
        """Give the same plan with the tasks of another; of those that stand in both this one tells."""
        further = [planned for planned in other if planned.task not in self]
        return Plan([*self.tasks, *further], {**other.before, **self.before}, {*other.settled, *self.settled})

    def is_fresh(self, task: luigi.Task) -> bool:
        """Say of a complete task, once all that it requires has run, whether it is as that is now.

        Of a task without records it is so if what it requires has come out as it was before.
        """
        sight = Sight()
        if has_record(task):
            return not stale_because(task, sight)
        known = self.before.get(task)
        return known is None or (None not in known.values() and known == read_by(task, sight))

    def of(self, verdict: Verdict) -> list[Planned]:
        """Give the tasks with a verdict."""
        return [planned for planned in self.tasks if planned.verdict is verdict]

    def to_dict(self) -> list[Metadata]:
        """Give the tasks as JSON's own types."""
        return [planned.to_dict() for planned in self.tasks]

    def to_json(self) -> str:
        """Give the tasks as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_pandas(self) -> Any:
        """Give a DataFrame, one row a task; the reasons are one text."""
        import pandas as pd

        rows = [{**row, "reasons": _joined(planned)} for planned, row in zip(self.tasks, self.to_dict(), strict=True)]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        """Give a table: what will run, then what is not known; and how many are skipped."""
        rows = [_row(planned) for planned in [*self.gone, *self._at_work, *self.of(Verdict.UNKNOWN)]]
        if not rows:
            return f"{self._title()}."
        shown = [_HEAD, *rows[:_SHOWN]]
        if len(rows) > _SHOWN:
            shown.append(("...", f"{len(rows) - _SHOWN} more", *[""] * (len(_HEAD) - 2)))
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in shown]
        return "\n".join([f"{self._title()}:", *(f"  {line}" for line in lines)])

    @property
    def gone(self) -> list[Planned]:
        """Data that are made elsewhere, that this run would read, and that are not there: the run cannot succeed."""
        return [planned for planned in self.of(Verdict.RUN) if dag.is_external(planned.task)]

    @property
    def _at_work(self) -> list[Planned]:
        return [planned for planned in self.of(Verdict.RUN) if not dag.is_external(planned.task)]

    def _title(self) -> str:
        unknown, skipped = (len(self.of(verdict)) for verdict in (Verdict.UNKNOWN, Verdict.SKIP))
        counts = f"{len(self._at_work)} to run, {unknown} unknown, {skipped} to skip"
        return f"{counts}, {len(self.gone)} gone, which no run makes" if self.gone else counts

    def __repr__(self) -> str:
        """Give the counts."""
        return f"<Plan: {self._title()}>"

    def _repr_html_(self) -> str:
        """Give the table for a notebook, with what is skipped."""
        shown = [*self.gone, *self._at_work, *self.of(Verdict.UNKNOWN), *self.of(Verdict.SKIP)]
        rows = [(markup.said(row[0], _TONES[row[0]]), *row[1:]) for row in map(_row, shown)]
        if len(rows) > _SHOWN:
            rows[_SHOWN:] = [(markup.said("..."), f"{len(rows) - _SHOWN} more", *[""] * (len(_HEAD) - 2))]
        return visuals.table(self._title(), _HEAD, rows)


_SHOWN = 200
_MAX_NAME = 120  # characters
_GONE = "gone"
_TONES = {
    _GONE: Tone.BAD,
    Verdict.RUN.value: Tone.PLAIN,
    Verdict.UNKNOWN.value: Tone.NOTE,
    Verdict.SKIP.value: Tone.GOOD,
}
_HEAD = ("", "task", "takes", "makes", "downloads", "why")


def _row(planned: Planned) -> tuple[str, ...]:
    is_gone = planned.verdict is Verdict.RUN and dag.is_external(planned.task)
    return (
        _GONE if is_gone else planned.verdict.value,
        _cut(markup.clean(public_name(planned.task))),
        markup.duration(planned.expected_s),
        markup.size(planned.expected_bytes),
        markup.size(planned.download_bytes or None),
        markup.clean(in_short(planned.reasons)),
    )


def _cut(name: str) -> str:
    """Give a name with both its ends that leaves room for the other columns; a parameter may be a list of thousands."""
    half = _MAX_NAME // 2
    return name if len(name) <= _MAX_NAME else f"{name[:half]}…{name[-half:]}"


def _joined(planned: Planned) -> str:
    return "; ".join(map(str, planned.reasons))


def make_plan(
    roots: Sequence[luigi.Task],
    forcing: Forcing,
    *,
    rerun_stale: bool = False,
    raise_exception: bool = False,
    with_cost: bool = False,
    known: Callable[[luigi.Task], Verdict | None] = lambda _: None,
    sight: Sight | None = None,
) -> Plan:
    """Plan a run. Asks what the run itself would ask: of a complete task nothing upstream, unless it might be stale.

    With `rerun_stale` each output in S3 costs a HEAD or listing, and a GET of its record. `with_cost` tells what will
    be downloaded, made and spent: for each task that may run a GET of its former record, and what it would itself ask
    of its inputs, a HEAD or listing each. What is `known` of a task is not found out again. What was
    seen is in `sight` afterwards, if one is given. What `requires()`,
    `output()` or `complete()` raise leaves as it is with `raise_exception`.

    Raises:
        CycleError: tasks require each other in a circle.
        TaskFailedError: one of the three fails, so that it cannot be told what would run. Names the task.
    """
    planner = _Planner(roots, forcing, rerun_stale=rerun_stale, known=known, sight=sight)
    try:
        with dag.outputs_held(), garbage.held_off():
            return planner.plan(with_cost=with_cost)
    except (ConfigError, CycleError, TaskTypeError):
        raise
    except Exception as error:
        if raise_exception:
            raise
        remember([planner.current])
        failure = failure_of(planner.current, error, traceback.format_exc())
        raise TaskFailedError([failure], "What would run cannot be told.") from error


class _Planner:
    """Finds out about the tasks of one graph."""

    def __init__(
        self,
        roots: Sequence[luigi.Task],
        forcing: Forcing,
        *,
        rerun_stale: bool,
        known: Callable[[luigi.Task], Verdict | None],
        sight: Sight | None,
    ) -> None:
        self.roots = roots
        self.known = known
        self.forcing = forcing
        self.rerun_stale = rerun_stale
        self.current: luigi.Task = roots[0]  # what is asked now
        self.sight = Sight() if sight is None else sight
        self.complete: dict[luigi.Task, bool] = {}
        self.graph: dict[luigi.Task, tuple[luigi.Task, ...]] = {}
        self.verdicts: dict[luigi.Task, tuple[Verdict, tuple[Reason, ...]]] = {}
        self.moves: dict[luigi.Task, luigi.Task | None] = {}  # what upstream of it will run, or may
        self.unsettled = Unsettled()
        self.before: dict[luigi.Task, Read] = {}  # of those of which a run that broke off has kept it

    def plan(self, *, with_cost: bool) -> Plan:
        with foresight(), holding(Memory()):  # what an earlier run has left there, the next one does not find
            self.graph = self._explored()
            if self.rerun_stale:
                self._look_ahead()
            on_demand = {task for task in self.graph if self._is_on_demand(task)}
            for task, upstream in self.graph.items():  # each comes after all that it requires
                self._decide(task, upstream, is_on_demand=task in on_demand)
            self._decide_on_demand(on_demand)
            self._decide_what_is_missed()
        before = {task: self._read_before(task) for task in self.verdicts if self._may_follow(task)}
        planned = [Planned(task, *self.verdicts[task]) for task in self.graph if task in self.verdicts]
        return Plan(_Costs(self.graph, self.sight).told(planned) if with_cost else planned, before, self._settled())

    def _may_follow(self, task: luigi.Task) -> bool:
        """Say of a task without records whether it has to be known, also to a later run, what it had read before."""
        verdict, reasons = self.verdicts[task]
        if verdict is Verdict.SKIP or self.known(task) is not None or has_record(task) or not _is_work(task):
            return False
        if verdict is Verdict.UNKNOWN or task in self.before:
            return True
        is_forced = self.rerun_stale and [reason.cause for reason in reasons] == [Cause.FORCED]
        return is_forced and self.moves[task] is not None and not gives_values(task)

    def _settled(self) -> set[luigi.Task]:
        return {
            task
            for task in self.before
            if self.verdicts[task][0] is Verdict.SKIP and self.moves[task] is None
            if not changed_since(task, self.before[task], self.sight, self._will_change)
        }

    def _read_before(self, task: luigi.Task) -> Read:
        self.current = task
        known = self.before.get(task)
        if known is None:
            known = self.unsettled.before(task) if self.forcing.includes(task) else None
        return read_by(task, self.sight) if known is None else known

    # The graph

    def _explored(self) -> dict[luigi.Task, tuple[luigi.Task, ...]]:
        """Give the tasks to look at, each after all that it requires; nothing upstream of what a run would skip."""
        edges: dict[luigi.Task, list[luigi.Task]] = {}
        outlook = Outlook(self.forcing)
        level = list(dict.fromkeys(self.roots))
        while level:
            if not self.rerun_stale:
                outlook.ask(level)
            for task in level:
                self.current = task
                edges[task] = dag.upstream_of(task) if self._is_open(task) else []
            level = list(dict.fromkeys(required for task in level for required in edges[task] if required not in edges))
        return dag.walk(self.roots, edges.__getitem__)

    def _is_open(self, task: luigi.Task) -> bool:
        """Say whether to look upstream of a task."""
        if self.known(task) is not None:
            return False
        if self.rerun_stale:
            return not dag.is_external(task)
        return self.forcing.includes(task) or not self._is_complete(task)

    def _look_ahead(self) -> None:
        """Look at all that is in S3 together: at the outputs, then at the markers of those that may be complete."""
        outputs: dict[luigi.Task, list[Target]] = {}
        for task in self.graph:
            self.current = task
            outputs[task] = own_outputs(task) if self.known(task) is None else []
        self.sight.look_ahead(target for found in outputs.values() for target in found)
        guards = [
            guard
            for task, found in outputs.items()
            if isinstance(task, Task) and not task.has_own_complete() and (guard := task.guard_of(found)) is not None
            if is_remote(guard) and all(self._is_there(target) for target in found if is_remote(target))
        ]
        ask_together([], guards)

    def _is_complete(self, task: luigi.Task) -> bool:
        if task not in self.complete:
            is_by_outputs = type(task).complete in (luigi.Task.complete, Task.complete)
            outputs = dag.targets(task) if is_by_outputs else []
            if outputs and self.rerun_stale:
                guard = task.guard_of(outputs) if isinstance(task, Task) else None
                is_there = self._was_found if has_record(task) else self._is_there
                is_complete = all(map(is_there, outputs)) and not (guard is not None and guard.store.is_marked())
            else:
                is_complete = bool(task.complete())
            self.complete[task] = is_complete
        return self.complete[task]

    def _is_there(self, target: Any) -> bool:
        """Say what `exists()` says; of data in S3 that were looked at, from what was seen."""
        if self.rerun_stale and is_remote(target):
            return self.sight.at(target).fingerprint is not None
        return bool(target.exists())

    def _was_found(self, target: Any) -> bool:
        """Say what `exists()` says of an output with a record, which is read in any case."""
        return self.sight.at(target).fingerprint is not None if isinstance(target, Target) else bool(target.exists())

    def _is_on_demand(self, task: luigi.Task) -> bool:
        """Say whether a task runs for who needs it alone: it gives values, or an earlier run has cleaned it up."""
        self.current = task
        if not _is_work(task) or self.forcing.includes(task) or self.known(task) is not None:
            return False
        outputs = dag.targets(task)
        lasting = [target for target in outputs if not isinstance(target, PathlessTarget)]
        if len(lasting) < len(outputs) and all(map(self._is_there, lasting)):
            return not (isinstance(task, Task) and task.has_own_complete())
        is_short_lived = isinstance(task, TaskWithCleanup)
        return is_short_lived and not self._is_complete(task) and is_cleaned_up(task, self.sight)

    # Verdicts

    def _decide(self, task: luigi.Task, upstream: tuple[luigi.Task, ...], *, is_on_demand: bool) -> None:
        self.current = task
        moving = next((found for found in map(self._moving, upstream) if found is not None), None)
        self.moves[task] = moving
        upstream_runs = [] if moving is None else [Reason(Cause.UPSTREAM, public_name(moving))]
        self.verdicts[task] = self.known(task) or Verdict.SKIP, ()
        if self.known(task) is not None:
            return
        if self.forcing.includes(task):
            self._run(task, Reason(Cause.FORCED))
        elif is_on_demand or (dag.is_group(type(task)) and self.rerun_stale):
            if stale := self._stale_because(task):
                self._run(task, *stale)
            elif dag.is_group(type(task)) and upstream_runs:
                self.verdicts[task] = Verdict.UNKNOWN, tuple(upstream_runs)
        elif not self._is_complete(task):
            if self.rerun_stale and dag.is_external(task):
                self.verdicts[task] = Verdict.SKIP, tuple(self._missing(task))  # unless somebody turns out to need it
                return
            self._run(task, *(upstream_runs if dag.is_group(type(task)) else self._missing(task)))
        elif stale := self._stale_because(task):
            self._run(task, *stale)
        elif self.rerun_stale and upstream_runs and not dag.is_external(task):
            self.verdicts[task] = Verdict.UNKNOWN, tuple(upstream_runs)

    def _run(self, task: luigi.Task, *reasons: Reason) -> None:
        self.verdicts[task] = Verdict.RUN, reasons

    def _stale_because(self, task: luigi.Task) -> list[Reason]:
        if not self.rerun_stale or dag.is_external(task) or dag.is_group(type(task)):
            return []
        if has_record(task):
            return stale_because(task, self.sight, self._will_change)
        before = self.unsettled.before(task)
        if before is None:
            return []
        self.before[task] = before
        return changed_since(task, before, self.sight, self._will_change)

    def _will_change(self, task: luigi.Task) -> bool:
        return self.verdicts[task][0] is not Verdict.SKIP

    def _moving(self, task: luigi.Task) -> luigi.Task | None:
        """Give what may change what is read of a task: the task itself, or, of values, what is upstream of it."""
        return self.moves[task] if self.verdicts[task][0] is Verdict.SKIP else task

    def _missing(self, task: luigi.Task) -> list[Reason]:
        outputs = dag.targets(task)
        if all(isinstance(target, NoTarget) for target in outputs):
            return [Reason(Cause.NEVER_COMPLETE)]
        missing = [Reason(Cause.MISSING, str(target)) for target in outputs if not self._is_there(target)]
        return missing or [Reason(Cause.INCOMPLETE)]

    def _decide_on_demand(self, on_demand: set[luigi.Task]) -> None:
        """Let tasks whose outputs do not outlive a run be run for who needs them, from the roots down.

        Without `rerun_stale` what is not needed is not looked through by the run, and leaves the plan.
        """
        held_in = self._groups_of(on_demand)
        needed_by: dict[luigi.Task, luigi.Task] = {}
        asked_for = set(self.roots)
        reached = set(self.roots)
        for task in reversed(self.graph):
            self.current = task
            if task not in reached and not self.rerun_stale:
                del self.verdicts[task]
                continue
            reader = needed_by.get(task)
            if task in on_demand:
                self._settle(task, is_asked_for=task in asked_for, reader=reader)
            elif dag.is_group(type(task)) and self.known(task) is None:
                self._settle_group(task, held_in, asked_for, is_read=reader is not None)
            is_skipped = self.verdicts[task][0] is Verdict.SKIP
            if not is_skipped:
                reached.update(self.graph[task])
            if not dag.is_group(type(task)):
                reader = None if is_skipped else task
            if reader is not None:
                for required in self.graph[task]:
                    needed_by.setdefault(required, reader)

    def _groups_of(self, on_demand: set[luigi.Task]) -> dict[luigi.Task, bool]:
        """Give the groups in which there are tasks that run on demand, and whether these give values."""
        holding: dict[luigi.Task, bool] = {}
        for group in (task for task in self.graph if dag.is_group(type(task))):
            members = self.graph[group]
            held = [gives_values(member) for member in members if member in on_demand]
            held += [holding[member] for member in members if member in holding]
            if held:
                holding[group] = any(held)
        return holding

    def _settle(self, task: luigi.Task, *, is_asked_for: bool, reader: luigi.Task | None) -> None:
        stale = self.verdicts[task][1]
        if is_asked_for:
            self._run(task, *(stale or self._missing(task)))
        elif reader is not None:
            self._run(task, *(stale or [Reason(Cause.NEEDED, public_name(reader))]))
        elif self.rerun_stale and (moving := self.moves[task]) is not None and own_outputs(task):
            self.verdicts[task] = Verdict.UNKNOWN, (Reason(Cause.UPSTREAM, public_name(moving)),)
        else:
            self.verdicts[task] = Verdict.SKIP, ()

    def _settle_group(
        self, group: luigi.Task, holding: Mapping[luigi.Task, bool], asked_for: set[luigi.Task], *, is_read: bool
    ) -> None:
        """Let a group that is asked for ask for the values in it; what was cleaned up it does not read."""
        is_asked_for = group in asked_for or not self.rerun_stale
        if is_asked_for:
            members = self.graph[group]
            asked_for.update(member for member in members if dag.is_group(type(member)) or gives_values(member))
        verdict, reasons = self.verdicts[group]
        runs = group in holding and (is_read or (is_asked_for and holding[group]))
        if (verdict is Verdict.SKIP and runs) or (verdict is Verdict.RUN and not reasons):
            self._run(group, Reason(Cause.INCOMPLETE))

    def _decide_what_is_missed(self) -> None:
        """Let data that are made elsewhere and are gone be missed by those that will, or may, read them.

        What was made from them is as good as before: of a complete task nothing is missed that it would not read.
        """
        gone = {task for task, (verdict, reasons) in self.verdicts.items() if verdict is Verdict.SKIP and reasons}
        if not gone:
            return
        needed = set(self.roots)
        for task in reversed(self.graph):
            if self.verdicts[task][0] is not Verdict.SKIP or (task in needed and dag.is_group(type(task))):
                needed.update(self.graph[task])
        missed: dict[luigi.Task, luigi.Task] = {task: task for task in gone & needed}
        for task in missed:
            self._run(task, *self.verdicts[task][1])
        for group in self.graph:
            found = next((missed[member] for member in self.graph[group] if member in missed), None)
            if found is not None and group in needed and dag.is_group(type(group)):
                missed[group] = found
                if self.verdicts[group][0] is Verdict.SKIP:
                    self.verdicts[group] = Verdict.UNKNOWN, (Reason(Cause.UPSTREAM, public_name(found)),)


class _Costs:
    """What the tasks of a plan will take, by former records and by what lies in S3."""

    def __init__(self, graph: Mapping[luigi.Task, tuple[luigi.Task, ...]], sight: Sight) -> None:
        self._graph = graph
        self._sight = sight

    def told(self, plan: Sequence[Planned]) -> list[Planned]:
        """Give the tasks with what they will take; of one without a former record the middle of its family."""
        active = {planned.task for planned in plan if planned.verdict is not Verdict.SKIP and _is_work(planned.task)}
        made_here = {planned.task for planned in plan if planned.verdict is Verdict.RUN}
        outputs = {planned.task: own_outputs(planned.task) for planned in plan if has_record(planned.task)}
        self._sight.look_for_records(
            target for task, found in outputs.items() for target in found if task in active or not is_remote(target)
        )
        durations = {task: self._recorded(found, _duration) for task, found in outputs.items()}
        sizes = {task: self._recorded(found, _size_bytes) for task, found in outputs.items()}
        usual_s, usual_bytes = _by_family(durations), _by_family(sizes)
        downloads = self._downloads([task for task in self._graph if task in active], made_here)
        return [
            planned
            if planned.task not in active
            else replace(
                planned,
                download_bytes=downloads[planned.task],
                expected_s=_known_or_usual(planned.task, durations, usual_s),
                expected_bytes=_whole(_known_or_usual(planned.task, sizes, usual_bytes)),
            )
            for planned in plan
        ]

    def _recorded(self, targets: list[Target], read: Callable[[Metadata], list[float]]) -> float | None:
        """Give what the records of a task's outputs tell together; None if one of them does not."""
        found = [read(self._sight.stored(target) or {}) for target in targets]
        if not found or not all(found):
            return None
        return max(map(sum, found)) if read is _duration else sum(map(sum, found))

    def _downloads(self, tasks: list[luigi.Task], made_here: set[luigi.Task]) -> dict[luigi.Task, int | None]:
        """Give what each task brings here first. Of what is made in the run there is a copy then."""
        told: set[str] = set()
        inputs: dict[luigi.Task, list[Target]] = {}
        for task in tasks:
            sources = [upstream for upstream in self._graph[task] if upstream not in made_here and copies_inputs(task)]
            remote = [target for upstream in sources for target in own_outputs(upstream) if is_remote(target)]
            inputs[task] = list({str(target): target for target in remote if str(target) not in told}.values())
            told.update(map(str, remote))
        sizes = self._sight.bytes_to_fetch(target for found in inputs.values() for target in found)
        return {task: _sum([sizes[str(target)] for target in inputs[task]]) for task in tasks}


def _duration(record: Metadata) -> list[float]:
    duration = record.get("duration")
    return [float(duration)] if isinstance(duration, int | float) else []


def _size_bytes(record: Metadata) -> list[float]:
    output = record.get("output")
    size_bytes = output.get("size_bytes") if isinstance(output, dict) else None
    return [size_bytes] if isinstance(size_bytes, int) else []


def _by_family(found: Mapping[luigi.Task, float | None]) -> dict[str, float]:
    by_family: defaultdict[str, list[float]] = defaultdict(list)
    for task, value in found.items():
        if value is not None:
            by_family[task.get_task_family()].append(value)
    return {family: statistics.median(values) for family, values in by_family.items()}


def _known_or_usual(
    task: luigi.Task, known: Mapping[luigi.Task, float | None], usual: Mapping[str, float]
) -> float | None:
    value = known.get(task)
    return usual.get(task.get_task_family()) if value is None else value


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def _sum(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _is_work(task: luigi.Task) -> bool:
    return not (dag.is_group(type(task)) or dag.is_external(task))
