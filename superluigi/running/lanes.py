"""Which rows the tasks of a run fill in a picture of it, and which chain of them took longest.

Nothing here knows of tasks or draws anything. The invariant: no two stretches on one row overlap, and a row is of one
place: a Dask worker, a process that ran several, or the processes of their own that a machine ran one after the other.
"""

from __future__ import annotations

import heapq
import os
import socket
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from superluigi.running.progress import Site


@dataclass(slots=True)
class Stretch:
    """A time in which a task ran: seconds from the beginning of the run, and where."""

    task_id: str
    begin_s: float
    end_s: float
    site: Site
    lane: int = -1  # the number of its row


@dataclass(slots=True)
class Lane:
    """A row, and how long something ran on it."""

    name: str
    busy_s: float = 0.0


@dataclass(slots=True)
class _Group:
    """What shares its rows."""

    name: str
    of_several: str  # how one row of several is called, without its number
    stretches: list[Stretch] = field(default_factory=list)


def lanes_of(stretches: Iterable[Stretch], *, is_async: bool = False) -> list[Lane]:
    """Give the rows, and note in each stretch which is its own; those that begin first come first.

    With `is_async` what ran here at a time has shared one loop, so that a row is no thread.
    """
    ordered = sorted(stretches, key=lambda stretch: (stretch.begin_s, stretch.end_s))
    lanes: list[Lane] = []
    for group in _groups(ordered, here="async" if is_async else "thread"):
        rows = assigned([(stretch.begin_s, stretch.end_s) for stretch in group.stretches])
        count = max(rows) + 1
        names = [group.name if count == 1 else f"{group.of_several} {row + 1}" for row in range(count)]
        first = len(lanes)
        lanes += map(Lane, names)
        for stretch, row in zip(group.stretches, rows, strict=True):
            stretch.lane = first + row
            lanes[stretch.lane].busy_s += max(0.0, stretch.end_s - stretch.begin_s)
    return lanes


def _groups(ordered: Sequence[Stretch], *, here: str) -> list[_Group]:
    tasks: dict[tuple[str, int | None], set[str]] = defaultdict(set)
    for stretch in ordered:
        tasks[stretch.site.host, stretch.site.process_id].add(stretch.task_id)
    hosts = {stretch.site.host for stretch in ordered} - {""}
    groups: dict[tuple[str, str, int | None], _Group] = {}
    for stretch in ordered:
        host, process_id, worker = stretch.site.host, stretch.site.process_id, stretch.site.worker
        at = f"{host} " if len(hosts) > 1 else ""
        key: tuple[str, str, int | None] = host, worker, None if worker else process_id
        if worker:
            names = f"{at}{worker}", f"{at}{worker}, thread"
        elif process_id is None:
            names = "not known", "not known"
        elif (host, process_id) == (socket.gethostname(), os.getpid()):
            names = f"{at}this process", f"{at}{here}"
        elif len(tasks[host, process_id]) > 1:
            names = f"{at}process {process_id}", f"{at}process {process_id}, thread"
        else:  # its own: what is of interest is how many there were at a time
            key, names = (host, "", 0), (f"{at}worker 1", f"{at}worker")
        groups.setdefault(key, _Group(*names)).stretches.append(stretch)
    return list(groups.values())


def assigned(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Give a row for each span, as few as there can be without overlaps; the spans are ordered by their beginnings."""
    free: list[int] = []
    taken: list[tuple[float, int]] = []  # when each becomes free
    rows = []
    count = 0
    for begin, end in spans:
        while taken and taken[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(taken)[1])
        if free:
            row = heapq.heappop(free)
        else:
            row, count = count, count + 1
        heapq.heappush(taken, (end, row))
        rows.append(row)
    return rows


def longest_chain(stretches: Iterable[Stretch], needs: Callable[[Stretch], Iterable[Stretch]]) -> list[Stretch]:
    """Give what the end of the run waited for: the last to end, before it the last that it needed, and so on.

    `needs` gives what may have had to be over before a stretch began. In their order; empty if nothing ran.
    """
    chain: list[Stretch] = []
    seen: set[int] = set()
    current = max(stretches, key=_end, default=None)
    while current is not None:
        chain.append(current)
        seen.add(id(current))
        begin_s = current.begin_s
        over = [one for one in needs(current) if one.end_s <= begin_s and id(one) not in seen]
        current = max(over, key=_end, default=None)
    return chain[::-1]


def _end(stretch: Stretch) -> float:
    return stretch.end_s
