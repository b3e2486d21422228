"""What the tasks of a plan will take: time, size and downloads, by former records and by what lies in S3.

Nothing here decides what runs. The invariant: what no record tells is the middle of its family, or not known.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from superluigi import dag
from superluigi.execution import copies_inputs
from superluigi.plans import Planned, Verdict, task_of
from superluigi.staleness import Sight, has_record, own_outputs
from superluigi.targets.metadata import duration_s_in, output_in
from superluigi.targets.s3 import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import luigi

    from superluigi.targets import Target
    from superluigi.targets.metadata import Metadata


class Costs:
    """What the tasks of a plan will take, by former records and by what lies in S3."""

    def __init__(self, graph: Mapping[luigi.Task, tuple[luigi.Task, ...]], sight: Sight) -> None:
        self._graph = graph
        self._sight = sight

    def told(self, plan: Sequence[Planned]) -> list[Planned]:
        """Give the tasks with what they will take; of one without a former record the middle of its family."""
        tasks = list(map(task_of, plan))
        todo = (task_of(planned) for planned in plan if planned.verdict is not Verdict.SKIP)
        active = set(filter(dag.is_work, todo))
        made_here = {task_of(planned) for planned in plan if planned.verdict is Verdict.RUN}
        outputs = {task: own_outputs(task) for task in tasks if has_record(task)}
        self._sight.look_for_records(
            target for task, found in outputs.items() for target in found if task in active or not is_remote(target)
        )
        durations = {task: self._recorded(found, _duration) for task, found in outputs.items()}
        sizes = {task: self._recorded(found, _size_bytes) for task, found in outputs.items()}
        usual_s, usual_bytes = _by_family(durations), _by_family(sizes)
        downloads = self._downloads([task for task in self._graph if task in active], made_here)
        return [
            planned
            if task not in active
            else replace(
                planned,
                download_bytes=downloads[task],
                expected_s=_known_or_usual(task, durations, usual_s),
                expected_bytes=_whole(_known_or_usual(task, sizes, usual_bytes)),
            )
            for planned, task in zip(plan, tasks, strict=True)
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
    duration_s = duration_s_in(record)
    return [] if duration_s is None else [duration_s]


def _size_bytes(record: Metadata) -> list[float]:
    size_bytes = output_in(record).get("size_bytes")
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
