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
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from superluigi.running.progress import Place

_Key = TypeVar("_Key", bound="Hashable")


@dataclass(slots=True)
class Stretch:
    """A time in which a task ran: seconds from the beginning of the run, and where."""

    task_id: str
    begin_s: float
    end_s: float
    place: Place
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
    is_numbered: bool  # whether even a single row has a number
    stretches: list[Stretch] = field(default_factory=list)


def lanes_of(stretches: Iterable[Stretch]) -> list[Lane]:
    """Give the rows, and note in each stretch which is its own; those that begin first come first."""
    ordered = sorted(stretches, key=lambda stretch: (stretch.begin_s, stretch.end_s))
    lanes: list[Lane] = []
    for group in _groups(ordered):
        rows = assigned([(stretch.begin_s, stretch.end_s) for stretch in group.stretches])
        count = max(rows) + 1
        names = [f"{group.name} {row + 1}" if group.is_numbered or count > 1 else group.name for row in range(count)]
        first = len(lanes)
        lanes += map(Lane, names)
        for stretch, row in zip(group.stretches, rows, strict=True):
            stretch.lane = first + row
            lanes[stretch.lane].busy_s += max(0.0, stretch.end_s - stretch.begin_s)
    return lanes


def _groups(ordered: Sequence[Stretch]) -> list[_Group]:
    tasks: dict[tuple[str, int | None], set[str]] = defaultdict(set)
    for stretch in ordered:
        tasks[stretch.place.host, stretch.place.process_id].add(stretch.task_id)
    hosts = {stretch.place.host for stretch in ordered} - {""}
    groups: dict[tuple[str, str, int | None], _Group] = {}
    for stretch in ordered:
        host, process_id, worker = stretch.place.host, stretch.place.process_id, stretch.place.worker
        at = f"{host} " if len(hosts) > 1 else ""
        if worker:
            key, name, is_numbered = (host, worker, None), f"{at}{worker}", False
        elif process_id is None:
            key, name, is_numbered = (host, "", None), "not known", False
        elif (host, process_id) == (socket.gethostname(), os.getpid()):
            key, name, is_numbered = (host, "", process_id), f"{at}this process", False
        elif len(tasks[host, process_id]) > 1:
            key, name, is_numbered = (host, "", process_id), f"{at}process {process_id}", False
        else:  # its own: what is of interest is how many there were at a time
            key, name, is_numbered = (host, "", 0), f"{at}worker", True
        groups.setdefault(key, _Group(name, is_numbered)).stretches.append(stretch)
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


def longest_chain(ended_s: Mapping[_Key, float], needs: Callable[[_Key], Iterable[_Key]]) -> list[_Key]:
    """Give the tasks that the end of the run waited for: the last to end, before it the last that it needed, and so on.

    `ended_s` has those that ran. In the order in which they ran; empty if none did.
    """
    chain: list[_Key] = []
    seen: set[_Key] = set()
    current = max(ended_s, key=lambda key: ended_s[key], default=None)
    while current is not None:
        chain.append(current)
        seen.add(current)
        until = ended_s[current]
        needed = [key for key in needs(current) if key not in seen and ended_s.get(key, until + 1) <= until]
        current = max(needed, key=lambda key: ended_s[key], default=None)
    return chain[::-1]
