"""How long tasks take, by class: in this run, in former ones on this machine, and by the records of present outputs.

It serves the time left, and nothing else. The invariant: no request is made for it, what cannot be read or written is
no error, and its cost grows with the number of classes, not of tasks.
"""

from __future__ import annotations

import contextlib
import json
import time
import weakref
from typing import TYPE_CHECKING

from superluigi import config
from superluigi.expectations import key_of
from superluigi.staleness import own_outputs
from superluigi.storage import processes, workplace
from superluigi.targets.metadata import duration_s_in
from superluigi.targets.s3 import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import luigi

_STEADY_S = 1.0  # how long it takes until the number of tasks at a time is what was seen, and not what may be
_NOTEWORTHY_S = 0.1  # of shorter ones nobody needs to know the time left
_MAX_KEPT = 1000  # classes; those that ran longest ago go
_SAMPLES = 3  # records that are read for a class
_MAX_READ = 100  # records that are read for a run


_kinds: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()  # to tell one looks at files


def kind_of(task: luigi.Task) -> str:
    """Give the name of a task's class by which its runs are told from those of others, as those of its history are."""
    task_cls = type(task)
    kind = _kinds.get(task_cls)
    if kind is None:
        kind = _kinds[task_cls] = key_of(task_cls)
    return kind


class Durations:
    """How long the tasks of a run take, in seconds, by the names of their classes."""

    def __init__(self) -> None:
        self._former: dict[str, float] = {}
        self._seen: dict[str, tuple[int, float]] = {}  # how many in this run, and how long together

    def observe(self, kind: str, duration_s: float) -> None:
        """Take how long a task took."""
        count, sum_s = self._seen.get(kind, (0, 0.0))
        self._seen[kind] = count + 1, sum_s + duration_s

    def read_former(self, to_run: Iterable[luigi.Task], complete: Iterable[luigi.Task]) -> None:
        """Read how long tasks took in former runs: one file, and a few local records of what is not in it."""
        known = _kept()
        wanted = {kind_of(task): task for task in to_run}
        samples: dict[str, list[luigi.Task]] = {kind: [task] for kind, task in wanted.items() if kind not in known}
        for task in complete if samples else ():
            if (sample := samples.get(kind_of(task))) is not None and len(sample) < _SAMPLES:
                sample.append(task)
        for kind, sample in list(samples.items())[: _MAX_READ // _SAMPLES]:
            recorded = [duration_s for task in sample if (duration_s := _recorded_s(task)) is not None]
            if recorded:
                known[kind] = sum(recorded) / len(recorded)
        self._former = {kind: known[kind] for kind in wanted if kind in known}

    def usual_s(self) -> Callable[[str], float | None]:
        """Give what gives how long a task of a class takes; of a class of which nothing is known, what others take."""
        means = {**self._former, **{kind: sum_s / count for kind, (count, sum_s) in self._seen.items()}}
        overall = sum(means.values()) / len(means) if means else None
        return lambda kind: means.get(kind, overall)

    def keep(self) -> None:
        """Let later runs know, unless nothing took long. One small file is replaced."""
        means = {kind: sum_s / count for kind, (count, sum_s) in self._seen.items()}
        if max(means.values(), default=0.0) < _NOTEWORTHY_S:
            return
        file = _file()
        with contextlib.suppress(OSError), processes.lock(str(file), family="history"):
            known = _kept()
            for kind, mean_s in means.items():
                known[kind] = (known.pop(kind, mean_s) + mean_s) / 2  # now the last; what is long ago counts less
            kept = dict(list(known.items())[-_MAX_KEPT:])
            workplace.keep(file, json.dumps(kept, indent=0).encode())


class Clock:
    """How many tasks have run at a time, on average over the time in which any ran."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._work_s = 0.0
        self._changed = time.monotonic()

    def changes(self, running: int) -> None:
        """Note that another number of tasks runs from now on than has up to now."""
        instant = time.monotonic()
        if running:
            self._busy_s += instant - self._changed
            self._work_s += running * (instant - self._changed)
        self._changed = instant

    def tasks_at_a_time(self, running: int, workers: int) -> float:
        """Give the average; at first how many there may be."""
        self.changes(running)
        return (self._work_s + workers * _STEADY_S) / (self._busy_s + _STEADY_S)


def _file() -> Path:
    return config.data_dir() / "durations.json"


def _kept() -> dict[str, float]:
    with contextlib.suppress(OSError, ValueError):
        found: Mapping[str, object] = json.loads(_file().read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {kind: float(value) for kind, value in found.items() if isinstance(value, int | float)}
    return {}


def _recorded_s(task: luigi.Task) -> float | None:
    """Give what the record of a local output says of how long its task took."""
    with contextlib.suppress(Exception):  # whatever a user's output() may do; it is no more than an estimate
        for target in own_outputs(task):
            record = None if is_remote(target) else target.store.stored_record()
            duration_s = duration_s_in(record)
            if duration_s is not None:
                return duration_s
    return None
