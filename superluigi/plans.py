"""A plan: what a run would do with each task, and why, as a value that is asked, shown and sent along.

It is made in `planning`. The invariant: a plan is kept nowhere, and only `is_fresh` looks at anything.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from superluigi import dag, markup, visuals
from superluigi.errors import public_name
from superluigi.markup import Tone
from superluigi.staleness import Reason, Sight, has_record, in_short, stale_because
from superluigi.unsettled import read_by

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    import luigi

    from superluigi.luigi_task import AnyTask
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

    task: AnyTask
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


def task_of(planned: Planned) -> luigi.Task:
    """Give its task as what it is at run time; users' type checkers are told of two kinds, see `luigi_task`."""
    return cast("luigi.Task", planned.task)


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

    def __getitem__(self, task: AnyTask) -> Planned:
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
        return [planned for planned in self.of(Verdict.RUN) if dag.is_external(task_of(planned))]

    @property
    def _at_work(self) -> list[Planned]:
        return [planned for planned in self.of(Verdict.RUN) if not dag.is_external(task_of(planned))]

    def _title(self) -> str:
        unknown, skipped = (len(self.of(verdict)) for verdict in (Verdict.UNKNOWN, Verdict.SKIP))
        counts = f"{len(self._at_work)} to run, {unknown} unknown, {skipped} to skip"
        return f"{counts}, {len(self.gone)} gone, which no run makes" if self.gone else counts

    def __repr__(self) -> str:
        """Give the counts."""
        return f"<Plan: {self._title()}>"

    def _repr_pretty_(self, printer: Any, _cycle: object) -> None:
        """Give IPython the table where it shows no HTML."""
        printer.text(str(self))

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
    is_gone = planned.verdict is Verdict.RUN and dag.is_external(task_of(planned))
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
