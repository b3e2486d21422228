"""What a run would do, task by task, and why: run, skip, or not known until what is upstream has run.

Nothing here runs a task or touches an output. The invariant: what a plan says of a task is what the run itself finds,
as one and the same plan is what the run goes by; and a plan is a value, kept nowhere.
"""

from __future__ import annotations

import enum
import json
import statistics
import traceback
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import luigi

from superluigi import dag
from superluigi.errors import SuperLuigiError, TaskFailedError, TaskFailure, public_name
from superluigi.execution import own_target
from superluigi.outlook import Outlook
from superluigi.staleness import Cause, Reason, Sight, has_record, is_on_demand, own_outputs, stale_because
from superluigi.targets.foresight import foresight
from superluigi.targets.s3 import is_remote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from superluigi.forcing import Forcing
    from superluigi.targets.metadata import Metadata


class Verdict(enum.Enum):
    """What becomes of a task; the value is the word for it in tables and JSON."""

    RUN = "run"
    SKIP = "skip"
    UNKNOWN = "unknown"  # until what is upstream has run: it is skipped if that comes out as before


@dataclass(frozen=True, slots=True)
class Planned:
    """One task of a plan. Durations in seconds and sizes in bytes are those of former records; None if there are none.

    `download_bytes` is the size of the inputs that lie in S3, as their records tell it; a fresh local copy spares it.
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
        self, tasks: Iterable[Planned], before: Mapping[luigi.Task, tuple[str | None, ...]] | None = None
    ) -> None:
        self.tasks = tuple(tasks)
        self._by_task = {planned.task: planned for planned in self.tasks}
        self._before = before or {}  # the fingerprints of what those read whose records do not tell

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
        before = {task: self._before[task] for task in tasks if task in self._before}
        return Plan([self._by_task[task] for task in tasks if task in self._by_task], before)

    def is_fresh(self, task: luigi.Task) -> bool:
        """Say of a complete task, once all that it requires has run, whether it is as that is now.

        Of a task without records it is so if what it requires has come out as it was before.
        """
        sight = Sight()
        if has_record(task):
            return not stale_because(task, sight)
        known = self._before.get(task)
        return known is None or (None not in known and known == fingerprints_read(task, sight))

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
        """Give a table: what will run, then what is not known, then how many are skipped."""
        counts = {verdict: len(self.of(verdict)) for verdict in Verdict}
        head = f"{counts[Verdict.RUN]} to run, {counts[Verdict.UNKNOWN]} unknown, {counts[Verdict.SKIP]} to skip"
        shown = [*self.of(Verdict.RUN), *self.of(Verdict.UNKNOWN)]
        rows = [
            (planned.verdict.value, public_name(planned.task), _seconds(planned.expected_s), _joined(planned))
            for planned in shown[:_SHOWN]
        ]
        if len(shown) > _SHOWN:
            rows.append(("...", f"{len(shown) - _SHOWN} more", "", ""))
        if not rows:
            return f"{head}."
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
        return "\n".join([f"{head}:", *(f"  {line.rstrip()}" for line in lines)])

    def __repr__(self) -> str:
        """Give the counts."""
        return f"<Plan: {str(self).partition(chr(10))[0].rstrip(':.')}>"

    def _repr_html_(self) -> str:
        """Give the table for a notebook."""
        from html import escape

        cells = [
            (planned.verdict.value, public_name(planned.task), _joined(planned), _seconds(planned.expected_s))
            for planned in [*self.of(Verdict.RUN), *self.of(Verdict.UNKNOWN), *self.of(Verdict.SKIP)][:_SHOWN]
        ]
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
        head = "".join(f"<th>{name}</th>" for name in ("", "task", "why", "expected"))
        caption = escape(str(self).partition("\n")[0].rstrip(":"))
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_SHOWN = 200


def _joined(planned: Planned) -> str:
    return "; ".join(map(str, planned.reasons))


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def make_plan(
    roots: Sequence[luigi.Task], forcing: Forcing, *, rerun_stale: bool = False, raise_exception: bool = False
) -> Plan:
    """Plan a run. Asks what the run itself would ask: of a complete task nothing upstream, unless it might be stale.

    What `requires()`, `output()` or `complete()` raise leaves as it is with `raise_exception`.

    Raises:
        CycleError: tasks require each other in a circle.
        TaskFailedError: one of the three fails, so that it cannot be told what would run. Names the task.
    """
    planner = _Planner(roots, forcing, rerun_stale=rerun_stale)
    try:
        return planner.plan()
    except SuperLuigiError:
        raise
    except Exception as error:
        if raise_exception:
            raise
        failure = TaskFailure.of(planner.current, error, traceback.format_exc())
        raise TaskFailedError([failure], "What would run cannot be told.") from error


class _Planner:
    """Finds out about the tasks of one graph."""

    def __init__(self, roots: Sequence[luigi.Task], forcing: Forcing, *, rerun_stale: bool) -> None:
        self.roots = roots
        self.forcing = forcing
        self.rerun_stale = rerun_stale
        self.current: luigi.Task = roots[0]  # what is asked now
        self.sight = Sight()
        self.complete: dict[luigi.Task, bool] = {}
        self.graph: dict[luigi.Task, tuple[luigi.Task, ...]] = {}
        self.verdicts: dict[luigi.Task, tuple[Verdict, list[Reason]]] = {}
        self.moves: dict[luigi.Task, luigi.Task | None] = {}  # what upstream of it will run, or may

    def plan(self) -> Plan:
        self.graph = self._explored()
        if self.rerun_stale:
            self.sight.look_ahead(target for task in self.graph for target in own_outputs(task))
        on_demand = [task for task in self.graph if self._is_on_demand(task)]
        held = set(on_demand)
        for task, upstream in self.graph.items():  # each comes after all that it requires
            self._decide(task, upstream, is_on_demand=task in held)
        self._decide_on_demand(held)
        durations = self._durations()
        before = {
            task: fingerprints_read(task, self.sight)
            for task, (verdict, _) in self.verdicts.items()
            if verdict is Verdict.UNKNOWN and not has_record(task) and not _is_group(task)
        }
        return Plan([self._planned(task, durations) for task in self.graph], before)

    # The graph

    def _explored(self) -> dict[luigi.Task, tuple[luigi.Task, ...]]:
        """Give the tasks to look at, each after all that it requires; nothing upstream of what a run would skip."""
        edges: dict[luigi.Task, list[luigi.Task]] = {}
        outlook = Outlook(self.forcing)
        level = list(dict.fromkeys(self.roots))
        with foresight():
            while level:
                if not self.rerun_stale:
                    outlook.ask(level)
                for task in level:
                    self.current = task
                    edges[task] = dag.upstream_of(task) if self._is_open(task) else []
                level = list(
                    dict.fromkeys(required for task in level for required in edges[task] if required not in edges)
                )
        return dag.walk(self.roots, edges.__getitem__)

    def _is_open(self, task: luigi.Task) -> bool:
        """Say whether to look upstream of a task."""
        return self.rerun_stale or self.forcing.includes(task) or not self._is_complete(task)

    def _is_complete(self, task: luigi.Task) -> bool:
        if task not in self.complete:
            self.complete[task] = self._exists(task) if self.rerun_stale and has_record(task) else bool(task.complete())
        return self.complete[task]

    def _exists(self, task: Any) -> bool:
        """Say what `complete()` says, from what was seen already; of one that decides otherwise, ask it."""
        if task.has_own_complete():
            return bool(task.complete())
        outputs = own_outputs(task)
        guard = task.guard_of(outputs)
        if any(self.sight.at(target).fingerprint is None for target in outputs):
            return False
        others = [target for _, target in dag.leaves(dag.output(task)) if own_target(target) is None]
        return all(target.exists() for target in others) and not (guard is not None and guard.store.is_marked())

    def _is_on_demand(self, task: luigi.Task) -> bool:
        return not (_is_group(task) or _is_made_elsewhere(task)) and is_on_demand(task, self.sight)

    # Verdicts

    def _decide(self, task: luigi.Task, upstream: tuple[luigi.Task, ...], *, is_on_demand: bool) -> None:
        self.current = task
        moving = next((self._moving(required) for required in upstream if self._moving(required) is not None), None)
        self.moves[task] = moving
        if self.forcing.includes(task):
            self._run(task, Reason(Cause.FORCED))
        elif is_on_demand:
            stale = self._stale_because(task) if own_outputs(task) else []
            self.verdicts[task] = (Verdict.RUN, stale) if stale else (Verdict.SKIP, [])
        elif not self._is_complete(task):
            self._run(task, *_missing(task))
        elif stale := self._stale_because(task):
            self._run(task, *stale)
        elif self.rerun_stale and moving is not None and not _is_made_elsewhere(task):
            self.verdicts[task] = (Verdict.UNKNOWN, [Reason(Cause.UPSTREAM, public_name(moving))])
        else:
            self.verdicts[task] = (Verdict.SKIP, [])

    def _stale_because(self, task: luigi.Task) -> list[Reason]:
        if not self.rerun_stale or _is_made_elsewhere(task):
            return []
        return stale_because(task, self.sight, lambda upstream: self.verdicts[upstream][0] is not Verdict.SKIP)

    def _moving(self, task: luigi.Task) -> luigi.Task | None:
        """Give what may change what is read of a task: the task itself, or, of values, what is upstream of it."""
        return self.moves[task] if self.verdicts[task][0] is Verdict.SKIP else task

    def _run(self, task: luigi.Task, *reasons: Reason) -> None:
        self.verdicts[task] = (Verdict.RUN, list(reasons))

    def _decide_on_demand(self, on_demand: set[luigi.Task]) -> None:
        """Let tasks whose outputs do not outlive a run be run for who needs them, from the roots down."""
        needed_by: dict[luigi.Task, luigi.Task] = {}
        for task in reversed(self.graph):
            if task in on_demand and self.verdicts[task][0] is Verdict.SKIP:
                if task in self.roots:
                    self._run(task, *_missing(task))
                elif task in needed_by:
                    self._run(task, Reason(Cause.NEEDED, public_name(needed_by[task])))
            passes_on = _is_group(task) and task in needed_by
            if passes_on or (self.verdicts[task][0] is not Verdict.SKIP and not _is_group(task)):
                reader = needed_by[task] if passes_on else task
                for required in self.graph[task]:
                    needed_by.setdefault(required, reader)

    # What it takes

    def _durations(self) -> Mapping[str, float]:
        """Give the middle duration of each family, of the records that were seen."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for task in self.graph:
            duration = self._recorded(task).get("duration")
            if isinstance(duration, int | float):
                found[task.get_task_family()].append(float(duration))
        return {family: statistics.median(durations) for family, durations in found.items()}

    def _recorded(self, task: luigi.Task) -> Metadata:
        if not self.rerun_stale and self.verdicts[task][0] is Verdict.SKIP:
            return {}
        for target in own_outputs(task) if has_record(task) else []:
            seen = self.sight.known(target)
            if seen is not None and (record := seen.record or seen.stray) is not None:
                return record
        return {}

    def _planned(self, task: luigi.Task, durations: Mapping[str, float]) -> Planned:
        verdict, reasons = self.verdicts[task]
        if verdict is Verdict.SKIP or _is_group(task) or _is_made_elsewhere(task):
            return Planned(task, verdict, tuple(reasons))
        record = self._recorded(task)
        duration, output = record.get("duration"), record.get("output")
        size = output.get("size_bytes") if isinstance(output, dict) else None
        return Planned(
            task,
            verdict,
            tuple(reasons),
            self._download_bytes(task),
            float(duration) if isinstance(duration, int | float) else durations.get(task.get_task_family()),
            size if isinstance(size, int) else None,
        )

    def _download_bytes(self, task: luigi.Task) -> int | None:
        total = 0
        for upstream in self.graph[task]:
            for target in own_outputs(upstream) if is_remote_task(upstream) else []:
                seen = self.sight.known(target)
                output = seen.record.get("output") if seen is not None and seen.record is not None else None
                size = output.get("size_bytes") if isinstance(output, dict) else None
                if not isinstance(size, int):
                    return None
                total += size
        return total


def fingerprints_read(task: luigi.Task, sight: Sight) -> tuple[str | None, ...]:
    """Give the fingerprints of what a task requires; None for what is missing, or has none."""
    return tuple(
        sight.fingerprint(target)
        for upstream in dag.upstream_of(task)
        for _, target in dag.leaves(dag.output(upstream))
    )


def is_remote_task(task: luigi.Task) -> bool:
    """Say whether any output of a task lies in S3."""
    return any(map(is_remote, own_outputs(task)))


def _is_group(task: luigi.Task) -> bool:
    return type(task).complete is luigi.WrapperTask.complete


def _is_made_elsewhere(task: luigi.Task) -> bool:
    run: object = task.run
    return run is None or run is NotImplemented


def _missing(task: luigi.Task) -> list[Reason]:
    outputs = [target for _, target in dag.leaves(dag.output(task))]
    missing = [target for target in outputs if not target.exists()]
    if not outputs and not _is_group(task):
        return [Reason(Cause.NEVER_COMPLETE)]
    return [Reason(Cause.MISSING, str(target)) for target in missing]
