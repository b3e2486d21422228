"""Why a task that is complete is out of date: its record beside what is there now, field by field.

Nothing here runs or plans anything. The invariant: everything is read off records and fingerprints, each asked once; a
reason is data first (what, before, now) and a sentence second; and what no record tells is not guessed.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import luigi
from luigi.task_register import Register, TaskClassException

from superluigi import config, dag, identity, provenance
from superluigi.records import Found, Input, State, can_be_at, inputs_of, is_followable
from superluigi.storage.concurrency import run_all
from superluigi.targets.foreign import own_target, own_targets
from superluigi.targets.looking import look_together
from superluigi.targets.memory import PathlessTarget
from superluigi.targets.metadata import IN_MEMORY, REMOVED, Metadata, output_in, plain
from superluigi.targets.s3 import is_remote
from superluigi.targets.store import Seen
from superluigi.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from superluigi.dag import Role
    from superluigi.targets import Target


class Cause(enum.Enum):
    """What kind of reason it is; the value is the word for it in tables and JSON."""

    MISSING = "missing"
    FORCED = "forced"
    NEVER_COMPLETE = "never complete"
    UPSTREAM = "upstream will run"
    NEEDED = "needed"
    INCOMPLETE = "incomplete"
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
    Cause.INCOMPLETE: "its outputs are there, but half-written, or its own complete() says no",
    Cause.NO_RECORD: "{subject} has no record, so nobody knows what it was made from",
    Cause.ALTERED: "{subject} was altered since it was made: it was {before}, and is {after}",
    Cause.INPUT_CHANGED: "the input {subject} changed: it was {before}, and is {after}",
    Cause.INPUT_REPLACED: "the input {subject} is another one: it was {before}, and is {after}",
    Cause.INPUT_ADDED: "the input {subject} is new: {after}",
    Cause.INPUT_GONE: "the input {subject} is no longer required: it was {before}",
    Cause.PARAMETER: "the parameter {subject} was {before!r}, and is {after!r}",
    Cause.VERSION: "{subject} was {before!r}, and is {after!r}",
    Cause.CODE: "the code of {subject} changed: the fingerprint was {before}, and is {after}",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a task runs: `subject` is a parameter, the role of an input, a path or a task; None where nothing was.

    `path` is where an input lies that has changed: its role alone, such as `0`, tells a reader little.
    """

    cause: Cause
    subject: str = ""
    before: Any = None
    after: Any = None
    path: str | None = None

    @property
    def is_stale(self) -> bool:
        """Whether it says that a complete task is out of date."""
        return self.cause.value in _STALE

    def __str__(self) -> str:
        """Give it as half a sentence."""
        shown = {"before": _short(self.before), "after": _short(self.after)}
        subject = self.subject if self.path in (None, self.subject) else f"{self.subject} ({self.path})"
        if self.cause is Cause.INPUT_CHANGED and self.after is None:
            return f"the input {subject} is gone: it was {shown['before']}"
        return _SENTENCES[self.cause].format(subject=subject, **shown)

    def to_dict(self) -> Metadata:
        """Give it as JSON's own types."""
        facts = {"cause": self.cause.value, "subject": self.subject, "before": self.before, "after": self.after}
        return facts if self.path is None else {**facts, "path": self.path}


def in_short(reasons: Sequence[Reason]) -> str:
    """Give reasons on one line, the first few of many."""
    told = list(map(str, reasons[:_TOLD]))
    return "; ".join([*told, *([f"and {len(reasons) - _TOLD} more"] if len(reasons) > _TOLD else [])])


_TOLD = 3
_STALE = {cause.value for cause in list(Cause)[list(Cause).index(Cause.NO_RECORD) :]}
_SHOWN = 80
_DIGESTS = ("sha256:", "sha256-tree:", "etag:")
_SHOWN_DIGITS = 12


def _short(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_DIGESTS):
        kind, _, digits = value.partition(":")
        return f"{kind}:{digits[:_SHOWN_DIGITS]}"
    return f"{value[: _SHOWN - 3]}..." if isinstance(value, str) and len(value) > _SHOWN else value


class Sight:
    """What is there now, of any number of targets; each is looked at once.

    A record that cannot be read, or followed to where it leads, is none.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Seen | Exception] = {}
        self._stamps: dict[str, str | None] = {}
        self._stored: dict[str, Metadata | None] = {}

    def look_ahead(self, targets: Iterable[Target]) -> None:
        """Look at many targets in S3 together, see `look_together`."""
        seen = look_together(target for target in targets if is_remote(target) and str(target) not in self._seen)
        self._seen.update((name, _with_readable(found)) for name, found in seen.items())

    def at(self, target: Target) -> Seen:
        """Give what is at a target. Raises whatever looking at it raises."""
        name = str(target.path)
        if name not in self._seen:
            self._seen[name] = _with_readable(target.store.look())
        seen = self._seen[name]
        if isinstance(seen, Exception):
            raise seen
        return seen

    def found(self, target: Target) -> Seen | None:
        """Give what was found at a target, without a record that is not its own; None if nobody has looked at it."""
        seen = self._seen.get(str(target.path))
        return seen if isinstance(seen, Seen) else None

    def look_for_records(self, targets: Iterable[Target]) -> None:
        """Read the records that lie beside many targets, so many in S3 at a time as `max_concurrency` says."""
        calls = []
        for name, target in {str(target.path): target for target in targets}.items():
            seen = self._seen.get(name)
            if isinstance(seen, Seen):
                self._stored[name] = seen.record or seen.stray
            elif name not in self._stored and is_remote(target):
                calls.append(partial(self._read_record, name, target))
            elif name not in self._stored:
                self._read_record(name, target)
        run_all(calls, max_concurrency=config.max_concurrency())

    def _read_record(self, name: str, target: Target) -> None:
        self._stored[name] = _readable(target.store.stored_record())

    def stored(self, target: Target) -> Metadata | None:
        """Give the record that lies beside a target, be it of other data; None if nobody has looked for it."""
        return self._stored.get(str(target.path))

    def bytes_to_fetch(self, targets: Iterable[Target]) -> dict[str, int | None]:
        """Give by name how much reading each would bring here, see `Store.bytes_to_fetch`."""
        found: dict[str, int | None] = {}

        def ask(target: Target) -> None:
            found[str(target)] = target.store.bytes_to_fetch()

        run_all([partial(ask, target) for target in targets], max_concurrency=config.max_concurrency())
        return found

    def fingerprint(self, target: Target) -> str | None:
        """Give the fingerprint of the present data, or of data that were removed on purpose; None if it has none."""
        seen = self.at(target)
        if seen.fingerprint is None and seen.record is not None:
            return fingerprint_in(seen.record)
        return seen.fingerprint

    def stamp(self, target: Target) -> str | None:
        """Give the stamp of data without a record, which costs no reading of them; None if there is none."""
        name = str(target.path)
        if name not in self._stamps:
            self._stamps[name] = target.store.stamp()
        return self._stamps[name]


def _with_readable(seen: Seen | Exception) -> Seen | Exception:
    if isinstance(seen, Exception) or (seen.record is None and seen.stray is None):
        return seen
    return replace(seen, record=_readable(seen.record), stray=_readable(seen.stray))


def _readable(record: Metadata | None) -> Metadata | None:
    return None if record is None or not is_followable(record) else record


def fingerprint_in(record: Metadata) -> str | None:
    """Give what a record says of its output's fingerprint."""
    fingerprint = output_in(record).get("fingerprint")
    return None if fingerprint is None else str(fingerprint)


def has_record(task: luigi.Task) -> bool:
    """Say whether the runs of a task leave records from which it can be told what its outputs were made from."""
    return isinstance(task, Task) and "metadata" in task.offered_arguments and bool(own_outputs(task))


def is_cleaned_up(task: luigi.Task, sight: Sight | None = None) -> bool:
    """Say whether the outputs of a task were removed and their records stayed. Looks at each output."""
    sight = sight or Sight()
    targets = [target for target in dag.targets(task) if not isinstance(target, PathlessTarget)]
    own = [own_target(target) for target in targets]
    return bool(own) and all(target is not None and is_removed(sight.at(target)) for target in own)


def is_removed(seen: Seen) -> bool:
    """Say whether data were removed on purpose, and their record stayed."""
    return seen.fingerprint is None and seen.record is not None and REMOVED in seen.record


def own_outputs(task: luigi.Task) -> list[Target]:
    """Give the outputs of a task that are targets of ours, or stand for one of Luigi's local ones."""
    outputs = dag.outputs(task)
    if outputs.own is None:
        outputs.own = own_targets(outputs.targets)
    own: list[Target] = outputs.own
    return own


def stale_because(
    task: luigi.Task, sight: Sight, will_change: Callable[[luigi.Task], bool] = lambda _: False
) -> list[Reason]:
    """Give why a complete task is out of date; nothing if it is not, or if it leaves no records.

    What is made by a task that `will_change` is not compared: it is not yet what this task would read.

    The outputs were made from what their record says: other bytes of an input, other inputs, another significant
    parameter, another `__version__` or other code make it stale, and so does an output that was altered. Data that are
    not there, of a task with a `complete()` of its own, are not judged.
    """
    if not has_record(task):
        return []
    own = own_outputs(task)
    found = [(target, sight.at(target)) for target in own]
    if isinstance(task, Task) and task.has_own_complete():  # it says by itself what has to be there
        found = [(target, seen) for target, seen in found if seen.fingerprint is not None or seen.record is not None]
    records = [seen.record for _, seen in found if seen.record is not None and "task_id" in seen.record]
    reasons = [reason for target, seen in found if (reason := _of_output(target, seen)) is not None]
    if not records:
        return reasons
    return [*reasons, *_compared(task, records[0], sight, will_change)]


def _of_output(target: Target, seen: Seen) -> Reason | None:
    if seen.record is not None and "task_id" in seen.record:
        return None
    stray = None if seen.stray is None else fingerprint_in(seen.stray)
    if stray is not None and seen.fingerprint not in (None, stray):
        return Reason(Cause.ALTERED, str(target), stray, seen.fingerprint)
    return Reason(Cause.NO_RECORD, str(target))


def _compared(
    task: luigi.Task, record: Metadata, sight: Sight, will_change: Callable[[luigi.Task], bool]
) -> list[Reason]:
    """Give what is not as a record says: of the task itself, and of what it reads now.

    Of a value that another task has set the record of who read it tells what that was made from; so the tasks that
    set values are compared along with it.
    """
    held = record.get(IN_MEMORY)
    held = held if isinstance(held, dict) else {}
    reasons: list[Reason] = []
    seen = {task}
    makers = _Makers()
    pending: list[tuple[Any, Metadata]] = [(task, record)]
    while pending:
        member, told = pending.pop()
        reasons += _of_task(member, told, "" if member is task else f"{type(member).__name__}.")
        reasons += _of_yielded(told, held, sight)
        for before, upstream, target in _paired(member, told, reasons):
            own = own_target(target)
            if own is not None:
                reasons += [] if will_change(upstream) else _of_input(before, own, sight)
                continue
            maker = makers.of(target, upstream)
            if maker not in seen and isinstance(described := held.get(str(before.task_id)), dict):
                seen.add(maker)
                pending.append((maker, described))
    return reasons


def gives_values(task: luigi.Task) -> bool:
    """Say whether a task has an output that a run holds and nothing keeps."""
    return any(isinstance(target, PathlessTarget) for target in dag.targets(task))


def makers_of_values(task: luigi.Task, record: Metadata) -> dict[str, type[luigi.Task]]:
    """Give the present classes of the tasks whose values a task has read, by the ids under which its record tells.

    Of what a run has yielded the class is found by name; what is not found is left out.
    """
    held = record.get(IN_MEMORY)
    held = held if isinstance(held, dict) and is_followable(record) else {}
    found: dict[str, type[luigi.Task]] = {}
    makers = _Makers()
    pending: list[tuple[Any, Metadata]] = [(task, record)] if held else []
    while pending:
        member, told = pending.pop()
        for before, upstream, target in _paired(member, told, []):
            task_id = str(before.task_id)
            if own_target(target) is None and task_id in held and task_id not in found:
                maker = makers.of(target, upstream)
                found[task_id] = type(maker)
                pending.append((maker, held[task_id]))
    for task_id, told in held.items():
        if task_id not in found and (task_cls := _class_named(told)) is not None:
            found[task_id] = task_cls
    return found


class _Makers:
    """Finds the tasks that set values, where groups only hand these on."""

    def __init__(self) -> None:
        self._by_bearer: dict[object, luigi.Task] = {}
        self._seen: set[luigi.Task] = set()

    def of(self, target: Any, upstream: luigi.Task) -> luigi.Task:
        """Give the task whose value it is; `upstream` gives it as an output."""
        bearer = target.key[:-1] if isinstance(target, PathlessTarget) and target.key is not None else ()
        pending = [upstream]
        while bearer and bearer not in self._by_bearer and pending:
            task = pending.pop()
            if task not in self._seen:
                self._seen.add(task)
                if dag.is_ours(task):
                    self._by_bearer[identity.bearer_of(task)] = task
                if not dag.is_ours(task) or identity.bearer_of(task) != bearer:
                    pending += dag.upstream_of(task)
        return self._by_bearer.get(bearer, upstream)


def _of_yielded(record: Metadata, held: Metadata, sight: Sight) -> list[Reason]:
    """Compare what a run has yielded, and by records all upstream of it, at the recorded paths, level by level.

    Which tasks these are is not known before the run yields them; so their classes are found by name. Nothing else
    makes them again: what was yielded and is missing is a change, too, and so is a record that is gone, as it is not
    known then what else has changed.
    """
    reasons: list[Reason] = []
    level = [replace(given, role=("yielded", *given.role)) for given in inputs_of(record) if given.is_dynamic]
    is_yielded = True
    seen: set[str] = set()
    while level:
        found = [(given, target) for given in level if (target := _target_at(given)) is not None]
        sight.look_ahead(target for _, target in found)
        sight.look_for_records(target for _, target in found)
        read = [(given, str(target), sight.stored(target)) for given, target in found]
        read += [(given, task_id, held[task_id]) for given in level if (task_id := str(given.task_id)) in held]
        for given, target in found:
            is_lost = "task_id" not in (sight.stored(target) or ()) and _leaves_records(given.task_family)
            changes = list(_of_input(given, target, sight, may_be_missing=not (is_yielded or is_lost)))
            reasons += changes or ([Reason(Cause.NO_RECORD, str(target))] if is_lost else [])
        level = []
        for given, name, told in read:
            if name not in seen and isinstance(told, dict):
                seen.add(name)
                reasons += _of_class_named(told)
                level += [replace(one, role=(*given.role, *one.role)) for one in inputs_of(told)]
        is_yielded = False
    return reasons


def _target_at(given: Input) -> Target | None:
    """Give the target at a recorded path; None of what has no fingerprint, such as a value, or can be nowhere."""
    path, record_path = given.path, given.metadata_path
    if given.fingerprint is None or record_path is None or not can_be_at(path, record_path):
        return None
    return Found(path, State.RECORDED, record_path).as_target()


def _of_class_named(record: Metadata) -> Iterator[Reason]:
    task_cls = _class_named(record)
    if task_cls is not None:
        yield from _of_class(task_cls, record, f"{task_cls.__name__}.")


def _leaves_records(family: str | None) -> bool:
    """Say whether the runs of a family leave records, as far as its class is known by name."""
    try:
        task_cls = Register.get_task_cls(str(family))
    except TaskClassException:
        return False
    offered: Collection[str] = getattr(task_cls, "offered_arguments", ())
    return "metadata" in offered and not dag.is_external(task_cls)


def _class_named(record: Metadata) -> type[luigi.Task] | None:
    try:
        task_cls: type[luigi.Task] = Register.get_task_cls(str(record.get("task_family")))
    except TaskClassException:
        return None
    return task_cls if task_cls.__module__ == record.get("task_module") else None


def _of_task(task: luigi.Task, record: Metadata, whose: str = "") -> Iterator[Reason]:
    task_cls: Any = type(task)
    known = record.get("params")
    known = known if isinstance(known, dict) else {}
    differing = {name: value for name, value in provenance.public_params(task).items() if known.get(name) != value}
    if differing:
        params = dict(task_cls.get_params())
        for name, value in plain(differing).items():
            if params[name].significant and known.get(name) != value:
                yield Reason(Cause.PARAMETER, f"{whose}{name}", known.get(name), value)
    yield from _of_class(task_cls, record, whose)


def _of_class(task_cls: Any, record: Metadata, whose: str = "") -> Iterator[Reason]:
    version_then, code_then = provenance.made_by(record)
    version = identity.version_of(task_cls)
    if version_then != version:
        yield Reason(Cause.VERSION, f"{whose}__version__", version_then, version)
        return  # who changes the code says so by the version
    code = identity.code_of(task_cls)
    if None not in (code_then, code) and code_then != code:
        yield Reason(Cause.CODE, task_cls.__name__, code_then, code)


def _paired(task: luigi.Task, record: Metadata, reasons: list[Reason]) -> Iterator[tuple[Input, luigi.Task, Any]]:
    """Give what a task read and still reads; what is new, gone or another is added to the reasons.

    The members of a set have no order: they are known by their paths.
    """
    before = {_as_text(given.role): given for given in inputs_of(record) if not given.is_dynamic}
    by_path: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
    for role, given in before.items():
        by_path[given.path].append(role)
    unmatched: list[tuple[tuple[str, ...], _Now]] = []
    for role, pattern, now in _read_now(task):
        known = next((known for known in by_path[now.path] if known in before and _is_at(known, pattern)), None)
        if known is None:
            unmatched.append((role, now))
        else:
            yield before.pop(known), now.upstream, now.target
    for role, now in unmatched:
        if role in before:
            given = before.pop(role)
            reasons.append(Reason(Cause.INPUT_REPLACED, given.name or given.path, given.path, now.path))
        else:
            reasons.append(Reason(Cause.INPUT_ADDED, ".".join(role) or now.path, None, now.path))
    reasons += [Reason(Cause.INPUT_GONE, given.name or given.path, given.path) for given in before.values()]


def _as_text(role: Role) -> tuple[str, ...]:
    return tuple(map(str, role))


def _read_now(task: luigi.Task) -> Iterator[tuple[tuple[str, ...], tuple[str | None, ...], _Now]]:
    """Give what a task reads with its role as a record names it, and with None for the places within a set."""
    required = dag.requires(task)
    if isinstance(required, luigi.Task) and isinstance(target := dag.output(required), luigi.Target):
        yield (), (), _Now(required, target)  # what follows gives the same, and takes ten times as long
        return
    outputs = {id(upstream): dag.output(upstream) for _, upstream in dag.leaves(required)}
    places = [
        (*outer, *inner) for outer, upstream in dag.leaves(required) for inner, _ in dag.leaves(outputs[id(upstream)])
    ]
    nested = dag.map_nested(
        lambda upstream: dag.map_nested(lambda target: _Now(upstream, target), outputs[id(upstream)]), required
    )
    for place, (told, now) in zip(places, dag.leaves(provenance.keyed_by_text(nested)), strict=True):
        role = _as_text(told)
        yield role, tuple(part if key is not None else None for key, part in zip(place, role, strict=True)), now


def _is_at(role: tuple[str, ...], pattern: tuple[str | None, ...]) -> bool:
    return len(role) == len(pattern) and all(key in (None, part) for part, key in zip(role, pattern, strict=True))


@dataclass(frozen=True, slots=True)
class _Now:
    """A target that a task reads now."""

    upstream: luigi.Task
    target: Any

    @property
    def path(self) -> str:
        return dag.place_of(self.target)


def _of_input(before: Input, target: Target, sight: Sight, *, may_be_missing: bool = True) -> Iterator[Reason]:
    """Compare an input; one that is missing will be made, and is looked at then, unless that may not be."""
    if before.fingerprint is None or (before.stamp is not None and sight.stamp(target) == before.stamp):
        return
    now = sight.fingerprint(target)
    if now != before.fingerprint and not (now is None and may_be_missing):
        yield Reason(Cause.INPUT_CHANGED, before.name or before.path, before.fingerprint, now, str(target))
