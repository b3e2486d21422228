"""Why a task that is complete is out of date: its record beside what is there now, field by field.

Nothing here runs or plans anything. The invariant: everything is read off records and fingerprints, each asked once; a
reason is data first (what, before, now) and a sentence second; and what no record tells is not guessed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from superluigi import config, dag, identity, provenance
from superluigi.execution import own_target
from superluigi.storage.concurrency import run_all
from superluigi.targets.memory import PathlessTarget
from superluigi.targets.metadata import REMOVED, Metadata, plain
from superluigi.targets.s3 import is_remote
from superluigi.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import luigi

    from superluigi.targets import Target
    from superluigi.targets.store import Seen


class Cause(enum.Enum):
    """What kind of reason it is; the value is the word for it in tables and JSON."""

    MISSING = "missing"
    FORCED = "forced"
    NEVER_COMPLETE = "never complete"
    UPSTREAM = "upstream will run"
    NEEDED = "needed"
    NO_RECORD = "no record"
    ALTERED = "output altered"
    INPUT_CHANGED = "input changed"
    INPUT_REPLACED = "another input"
    INPUT_ADDED = "input added"
    INPUT_GONE = "input gone"
    PARAMETER = "parameter"
    VERSION = "version"
    CODE = "code"


_SENTENCES = {
    Cause.MISSING: "{subject} does not exist",
    Cause.FORCED: "it is forced",
    Cause.NEVER_COMPLETE: "it has nothing that could exist, so it runs in every run",
    Cause.UPSTREAM: "{subject} will run, and may change what this task reads",
    Cause.NEEDED: "{subject} needs its output, which does not outlive a run",
    Cause.NO_RECORD: "{subject} has no record, so nobody knows what it was made from",
    Cause.ALTERED: "{subject} was altered since it was made: it was {before}, and is {after}",
    Cause.INPUT_CHANGED: "the input {subject} changed: it was {before}, and is {after}",
    Cause.INPUT_REPLACED: "the input {subject} is another one: it was {before}, and is {after}",
    Cause.INPUT_ADDED: "the input {subject} is new: {after}",
    Cause.INPUT_GONE: "the input {subject} is no longer required: it was {before}",
    Cause.PARAMETER: "the parameter {subject} was {before!r}, and is {after!r}",
    Cause.VERSION: "__version__ was {before!r}, and is {after!r}",
    Cause.CODE: "its code changed: the fingerprint was {before}, and is {after}",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a task runs: `subject` is a parameter, the role of an input, a path or a task; None where nothing was."""

    cause: Cause
    subject: str = ""
    before: Any = None
    after: Any = None

    @property
    def is_stale(self) -> bool:
        """Whether it says that a complete task is out of date."""
        return self.cause.value in _STALE

    def __str__(self) -> str:
        """Give it as half a sentence."""
        shown = {"before": _short(self.before), "after": _short(self.after)}
        return _SENTENCES[self.cause].format(subject=self.subject, **shown)

    def to_dict(self) -> Metadata:
        """Give it as JSON's own types."""
        return {"cause": self.cause.value, "subject": self.subject, "before": self.before, "after": self.after}


_STALE = {cause.value for cause in list(Cause)[5:]}
_SHOWN = 80


def _short(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("sha256:"):
        return value[:19]
    return f"{value[: _SHOWN - 3]}..." if isinstance(value, str) and len(value) > _SHOWN else value


class Sight:
    """What is there now, of any number of targets; each is looked at once."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen | Exception] = {}

    def look_ahead(self, targets: Iterable[Target]) -> None:
        """Look at many targets in S3 together, so many at a time as `max_concurrency` says."""
        remote = {str(target): target for target in targets if is_remote(target) and str(target) not in self._seen}

        def look(name: str, target: Target) -> None:
            try:
                self._seen[name] = target.store.look()
            except Exception as error:  # noqa: BLE001  (it is raised where the target is asked about)
                self._seen[name] = error

        calls = [partial(look, name, target) for name, target in remote.items()]
        run_all(calls, max_concurrency=config.max_concurrency())

    def at(self, target: Target) -> Seen:
        """Give what is at a target. Raises whatever looking at it raises."""
        name = str(target.path)
        if name not in self._seen:
            self._seen[name] = target.store.look()
        seen = self._seen[name]
        if isinstance(seen, Exception):
            raise seen
        return seen

    def known(self, target: Target) -> Seen | None:
        """Give what was seen at a target, None if nobody has looked, or could."""
        seen = self._seen.get(str(target.path))
        return None if isinstance(seen, Exception) else seen

    def fingerprint(self, target: Any) -> str | None:
        """Give the fingerprint of the present data, or of data that were removed on purpose; None if it has none."""
        own = own_target(target)
        if own is None:
            return None
        seen = self.at(own)
        if seen.fingerprint is None and seen.record is not None:
            return fingerprint_in(seen.record)
        return seen.fingerprint


def fingerprint_in(record: Metadata) -> str | None:
    """Give what a record says of its output's fingerprint."""
    output = record.get("output")
    fingerprint = output.get("fingerprint") if isinstance(output, dict) else None
    return None if fingerprint is None else str(fingerprint)


def has_record(task: luigi.Task) -> bool:
    """Say whether the runs of a task leave records from which it can be told what its outputs were made from."""
    return isinstance(task, Task) and "metadata" in task.offered_arguments and bool(own_outputs(task))


def is_on_demand(task: luigi.Task, sight: Sight) -> bool:
    """Say whether the outputs of a task do not outlive a run, or were cleaned up: it runs for who needs them alone."""
    outputs = [target for _, target in dag.leaves(dag.output(task))]
    if outputs and all(isinstance(target, PathlessTarget) for target in outputs):
        return True
    own = [target for target in map(own_target, outputs) if target is not None]
    return bool(own) and len(own) == len(outputs) and all(is_removed(sight.at(target)) for target in own)


def is_removed(seen: Seen) -> bool:
    """Say whether data were removed on purpose, and their record stayed."""
    return seen.fingerprint is None and seen.record is not None and REMOVED in seen.record


def own_outputs(task: luigi.Task) -> list[Target]:
    """Give the outputs of a task that are targets of ours, or stand for one of Luigi's local ones."""
    return [own for own in (own_target(target) for _, target in dag.leaves(dag.output(task))) if own is not None]


def stale_because(
    task: luigi.Task, sight: Sight, will_change: Callable[[luigi.Task], bool] = lambda _: False
) -> list[Reason]:
    """Give why a complete task is out of date; nothing if it is not, or if it leaves no records.

    What is made by a task that `will_change` is not compared: it is not yet what this task would read.

    The outputs were made from what their record says: other bytes of an input, other inputs, another significant
    parameter, another `__version__` or other code make it stale, and so does an output that was altered.
    """
    if not has_record(task):
        return []
    own = own_outputs(task)
    found = [(target, sight.at(target)) for target in own]
    records = [seen.record for _, seen in found if seen.record is not None]
    reasons = [reason for target, seen in found if (reason := _of_output(target, seen)) is not None]
    if not records:
        return reasons
    return [*reasons, *_compared(task, records[0], sight, will_change)]


def _of_output(target: Target, seen: Seen) -> Reason | None:
    if seen.record is not None and "task_id" in seen.record:
        return None
    stray = None if seen.stray is None else fingerprint_in(seen.stray)
    if stray is not None and seen.fingerprint is not None:
        return Reason(Cause.ALTERED, str(target), stray, seen.fingerprint)
    return Reason(Cause.NO_RECORD, str(target))


def _compared(
    task: luigi.Task, record: Metadata, sight: Sight, will_change: Callable[[luigi.Task], bool]
) -> list[Reason]:
    """Give what is not as a record says: of the task itself, and of what it reads now.

    Of a value that another task has set the record of who read it tells what that was made from; so the tasks that
    set values are compared along with it.
    """
    held = record.get(provenance.IN_MEMORY)
    held = held if isinstance(held, dict) else {}
    reasons: list[Reason] = []
    seen = {task}
    pending: list[tuple[Any, Metadata]] = [(task, record)]
    while pending:
        member, told = pending.pop()
        reasons += _of_task(member, told)
        for before, upstream, target in _paired(member, told, reasons):
            if not isinstance(target, PathlessTarget):
                reasons += [] if will_change(upstream) else _of_input(before, target, sight)
            elif upstream not in seen and isinstance(described := held.get(str(before.described.get("task_id"))), dict):
                seen.add(upstream)
                pending.append((upstream, described))
    return reasons


@dataclass(frozen=True, slots=True)
class _Recorded:
    """An input, as a record tells of it or as it is now, and the role that it plays."""

    role: tuple[str, ...]
    described: Any

    def __str__(self) -> str:
        return ".".join(self.role) or "input"


def _of_task(task: luigi.Task, record: Metadata) -> Iterator[Reason]:
    task_cls: Any = type(task)
    known = record.get("params")
    known = known if isinstance(known, dict) else {}
    params = dict(task_cls.get_params())
    for name, value in plain(provenance.public_params(task)).items():
        if params[name].significant and known.get(name) != value:
            yield Reason(Cause.PARAMETER, name, known.get(name), value)
    accepted = record.get(provenance.ACCEPTED)
    told = {**record, **(accepted if isinstance(accepted, dict) else {})}
    version = identity.version_of(task_cls)
    if told.get("version") != version:
        yield Reason(Cause.VERSION, "__version__", told.get("version"), version)
        return  # who changes the code says so by the version
    code = provenance.code_of(task_cls)
    if told.get("code") is not None and code is not None and told["code"] != code:
        yield Reason(Cause.CODE, task_cls.__name__, told["code"], code)


def _paired(task: luigi.Task, record: Metadata, reasons: list[Reason]) -> Iterator[tuple[_Recorded, luigi.Task, Any]]:
    """Give what a task read and still reads; what is new, gone or another is added to the reasons."""
    before = {found.role: found for found in _flattened(record.get("input"))}
    nested = dag.map_nested(
        lambda upstream: dag.map_nested(lambda target: _Now(upstream, target), dag.output(upstream)), dag.requires(task)
    )
    unmatched: list[tuple[tuple[str, ...], _Now]] = []
    for now in _flattened(provenance.keyed_by_text(nested)):
        known = before.get(now.role)
        if known is not None and known.described.get("path") == now.described.path:
            del before[now.role]
            yield known, now.described.upstream, now.described.target
        else:
            unmatched.append((now.role, now.described))
    by_path = {(known.role[:-1], known.described.get("path")): known for known in before.values()}
    for role, now_there in unmatched:
        moved = by_path.get((role[:-1], now_there.path))  # the members of a set have no order
        if moved is not None and _has_set(dag.requires(task)):
            before.pop(moved.role, None)
            yield moved, now_there.upstream, now_there.target
        elif role in before:
            known = before.pop(role)
            reasons.append(Reason(Cause.INPUT_REPLACED, str(known), known.described.get("path"), now_there.path))
        else:
            reasons.append(Reason(Cause.INPUT_ADDED, ".".join(role) or "input", None, now_there.path))
    reasons += [Reason(Cause.INPUT_GONE, str(known), known.described.get("path")) for known in before.values()]


@dataclass(frozen=True, slots=True)
class _Now:
    """A target that a task reads now."""

    upstream: luigi.Task
    target: Any

    @property
    def path(self) -> str:
        return str(getattr(self.target, "path", self.target))


def _flattened(nested: Any) -> Iterator[_Recorded]:
    """Give the inputs in what mirrors `requires()`: descriptions of a record, or what is read now."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), nested)]
    while pending:
        role, item = pending.pop()
        if isinstance(item, _Now) or (isinstance(item, dict) and item.keys() >= _DESCRIBED):
            yield _Recorded(role, item)
        elif isinstance(item, dict):
            pending.extend(((*role, str(key)), child) for key, child in item.items())
        elif isinstance(item, list):
            pending.extend(((*role, str(position)), child) for position, child in enumerate(item))


_DESCRIBED = {"path", "fingerprint", "task_id", "metadata_path"}


def _has_set(nested: Any) -> bool:
    return isinstance(nested, set | frozenset) or any(role and role[-1] is None for role, _ in dag.leaves(nested))


def _of_input(before: _Recorded, target: Any, sight: Sight) -> Iterator[Reason]:
    known = before.described.get("fingerprint")
    now = None if known is None else sight.fingerprint(target)
    if now is not None and now != known:  # one that is missing will be made, and is looked at then
        yield Reason(Cause.INPUT_CHANGED, str(before), known, now)
