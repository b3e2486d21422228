"""What tasks without records had read before a run with `rerun_stale` began: kept here until they have followed.

    <data_dir>/unsettled/<task>-<outputs>.json      of one task: what it requires, by place, and the fingerprints

Such a task is made again in the run that changes what it reads. If that run breaks off in between, nothing else tells
a later one. The invariant: a file is there before anything runs, and goes once its task has succeeded, or what that
reads is found as it was. Whatever is killed in between leaves it, which costs at most a run in vain.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from superluigi import config, dag, identity
from superluigi.errors import public_name
from superluigi.staleness import Cause, Reason
from superluigi.storage import files, workplace
from superluigi.targets.foreign import own_target
from superluigi.targets.memory import PathlessTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    import luigi

    from superluigi.staleness import Sight
    from superluigi.targets import Target

Read: TypeAlias = "dict[str, str | None]"  # the fingerprint of what is required, by its place; None if it has none

_SCHEMA = 1
_MAX_AGE_S = 90 * 24 * 3600


class Unsettled:
    """What is kept on this machine. Listed once, when it is first asked; without files a task costs nothing.

    Only the process that has made it writes and removes: one that was forked knows less of the run.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._listed: dict[str, set[str]] | None = None

    def before(self, task: luigi.Task) -> Read | None:
        """Give what a task had read before; None if nothing is kept of it, or what is there is damaged."""
        name = self._find(task)
        return None if name is None else _load(name)

    def keep(self, before: Mapping[luigi.Task, Read]) -> None:
        """Keep what tasks had read, each in one step.

        Raises:
            StorageError: it cannot be written.
        """
        new = [] if os.getpid() != self._pid else [task for task in before if self.before(task) != before[task]]
        if new:
            folder = _folder()
            with files.translated("keep what was read before", folder):
                for task in new:
                    name = _name_of(task)
                    workplace.keep(folder / name, _dumped(task, before[task]))
                    self._note(name)

    def forget(self, task: luigi.Task) -> None:
        """Let go what is kept of a task: it has followed, or need not."""
        name = self._find(task) if os.getpid() == self._pid else None
        if name is not None:
            self._by_start[_start_of(task)].discard(name)
            with contextlib.suppress(OSError):
                (_folder() / name).unlink()

    def remove_old(self, but: Collection[luigi.Task]) -> None:
        """Remove what has been kept for 90 days, such as of tasks that there are no more, but not of those given."""
        if self._by_start:
            spared = set(map(_name_of, but))
            for names in self._by_start.values():
                for name in names - spared:
                    _remove_if_old(name)

    @property
    def _by_start(self) -> dict[str, set[str]]:
        if self._listed is None:
            self._listed = {}
            with contextlib.suppress(OSError):  # mostly there is no such folder
                for name in os.listdir(_folder()):
                    self._note(name)
        return self._listed

    def _note(self, name: str) -> None:
        self._by_start.setdefault(name.partition("-")[0], set()).add(name)

    def _find(self, task: luigi.Task) -> str | None:
        names = self._by_start.get(_start_of(task)) if self._by_start else None
        name = _name_of(task) if names else None  # which asks for the outputs
        return name if names and name in names else None


def read_by(task: luigi.Task, sight: Sight) -> Read:
    """Give the fingerprints of what a task requires; None for what is missing, or has none."""
    return {place: _fingerprint(own, sight) for _, place, own in _required(task)}


def changed_since(
    task: luigi.Task, before: Read, sight: Sight, will_change: Callable[[luigi.Task], bool]
) -> list[Reason]:
    """Give why a task has yet to follow what it requires; nothing if that is as it had read it.

    What is made by a task that `will_change` is not compared. What had no fingerprint, such as a value, cannot be.
    """
    reasons: list[Reason] = []
    gone = dict(before)
    for upstream, place, own in _required(task):
        known = gone.pop(place, None)
        if will_change(upstream):
            continue
        now = _fingerprint(own, sight)
        if place not in before:
            reasons.append(Reason(Cause.INPUT_ADDED, place, None, now))
        elif known is None:
            reasons.append(Reason(Cause.NO_RECORD, next(map(str, dag.targets(task)), public_name(task))))
        elif known != now:
            reasons.append(Reason(Cause.INPUT_CHANGED, place, known, now))
    reasons += [Reason(Cause.INPUT_GONE, place, known) for place, known in gone.items()]
    return list(dict.fromkeys(reasons))


def _required(task: luigi.Task) -> Iterator[tuple[luigi.Task, str, Target | None]]:
    """Give each output that a task requires once: whose it is, its place, and the target of ours for it."""
    seen: set[str] = set()
    for upstream in dag.upstream_of(task):
        for target in dag.targets(upstream):
            place = _place_of(target)
            if place not in seen:
                seen.add(place)
                yield upstream, place, own_target(target)


def _fingerprint(target: Target | None, sight: Sight) -> str | None:
    return None if target is None else sight.fingerprint(target)


def _place_of(target: Any) -> str:
    """Give an absolute path or address; of what has none its kind, as it has no fingerprint either."""
    path = None if isinstance(target, PathlessTarget) else dag.path_of(target)
    if path is None:
        return f"a {type(target).__name__}"
    return str(path) if "://" in str(path) else os.path.abspath(str(path))


# The files


def _folder() -> Path:
    return config.data_dir() / "unsettled"


def _start_of(task: luigi.Task) -> str:
    return _digest([str(task.get_task_family()), identity.luigi_id(task)])


def _name_of(task: luigi.Task) -> str:
    return f"{_start_of(task)}-{_digest(sorted(map(_place_of, dag.targets(task))))}.json"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _dumped(task: luigi.Task, read: Read) -> bytes:
    told = {"schema": _SCHEMA, "task": public_name(task), "time": time.time(), "read": read}
    return json.dumps(told, indent=1).encode()


def _load(name: str) -> Read | None:
    try:
        told = json.loads((_folder() / name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    read = told.get("read") if isinstance(told, dict) and told.get("schema") == _SCHEMA else None
    if not isinstance(read, dict) or not all(value is None or isinstance(value, str) for value in read.values()):
        return None
    return read


def _remove_if_old(name: str) -> None:
    path = _folder() / name
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _MAX_AGE_S:
            path.unlink()
