"""What differs between two outputs, by their lineage: the causes, and not all that follows from them.

The two ancestries are walked side by side. The invariant: one change is told once, at the place most upstream at which
it is met, with the way that leads there from the output.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from superluigi import dag, markup, visuals
from superluigi.ancestry import Lineage, trace
from superluigi.errors import TargetNotFoundError
from superluigi.records import State, shown
from superluigi.targets.metadata import RECORD_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from superluigi.ancestry import Ancestor, Link
    from superluigi.dag import Role
    from superluigi.records import Output


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs: in which field, at which path, and from what to what; None stands for what is not there.

    `field` is `params.<name>`, `packages.<name>`, `metadata.<name>`, `version`, `code`, `python`, `task_family`,
    `input.<role>` (an input that one of the two does not have; the values are paths), `fingerprint` (of data without a
    record that can be followed) or `output` (other bytes, although nothing else that is recorded differs). `route`
    leads from the output to the place. `others` are further places with the same change.
    """

    where: str
    field: str
    before: Any = dataclasses.field(hash=False)
    after: Any = dataclasses.field(hash=False)
    task_family: str | None = None
    route: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Give it on one line."""
        return f"{markup.clean(self.field)}: {' -> '.join(self.told())}"

    def told(self) -> tuple[str, str]:
        """Give both values in few characters, digests cut short."""
        return _told(self.before), _told(self.after)


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between the lineages of `before` and `after`: the causes, upstream first. True if there are any."""

    before: str
    after: str
    causes: tuple[Change, ...]

    def __bool__(self) -> bool:
        """Say whether anything differs."""
        return bool(self.causes)

    def __str__(self) -> str:
        """Give a few lines for each cause."""
        lines = [self._title()]
        for cause in self.causes:
            more = f" (and at {len(cause.others)} more)" if cause.others else ""
            task = f"{cause.task_family}, " if cause.task_family else ""
            lines += [f"  {cause}", f"      at {task}{markup.clean(cause.where)}{more}"]
            if len(cause.route) > 1:
                lines.append(f"      by way of {_way(cause.route)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Give these lines: it is asked for to be read."""
        return str(self)

    def _repr_html_(self) -> str:
        head = ("what", "before", "after", "task", "where", "also at", "by way of")
        rows = [
            (
                *(cause.field, *cause.told(), cause.task_family or "", cause.where),
                *(str(len(cause.others) or ""), _way(cause.route)),
            )
            for cause in self.causes
        ]
        return visuals.table(self._title(), head, rows)

    def _title(self) -> str:
        names = f"{markup.clean(self.before)} and {markup.clean(self.after)}"
        return f"{names} differ because of:" if self.causes else f"{names} have the same lineage."


def _told(value: object) -> str:
    if isinstance(value, str) and value.startswith("sha256"):
        kind, _, digits = value.partition(":")
        return f"{kind}:{digits[:12]}…"
    return "nothing" if value is None else markup.clean(shown(repr(value)))


def _way(route: tuple[str, ...]) -> str:
    steps = route if len(route) <= 6 else (*route[:3], f"… {len(route) - 5} more …", *route[-2:])
    return " <- ".join(map(markup.clean, steps))


def diff(a: Output | Lineage, b: Output | Lineage) -> Difference:
    """Give what in their lineage makes two outputs differ; `a` is before, `b` after.

    Takes what `lineage` takes, or what it gave. Both ancestries are walked from the outputs upstream: inputs belong
    together that have the same role and the same task family; within a list those with the same task, wherever they
    stand, then those at the same position. Compared are parameters, version, code, Python, the versions of packages
    that both had loaded, the user's metadata, and of data without a record the fingerprint.

    A change is told once, where it is met most upstream; other places with the same change are counted. Metadata and
    bytes of an output are told only where nothing that they were made from differs. What a task does to its inputs is
    not known, so a change of its own is told even if something upstream differs, too. Not compared are times, the run,
    host, user, git commit and the paths of the data.

    Raises:
        TargetNotFoundError: one of the two has no lineage record that can be read.
        InvalidNameError, TaskTypeError: as for `lineage`.
    """
    return _Comparison(_traced(a), _traced(b)).difference()


def _traced(given: Output | Lineage) -> Lineage:
    traced = given if isinstance(given, Lineage) else trace(given, "diff")
    if traced.root.record is None:
        message = (
            f"{traced.root.path} has no lineage record that can be followed: it is {traced.root.state}"
            f"{f', {traced.root.error}' if traced.root.error else ''}. Compare outputs of tasks with metadata."
        )
        raise TargetNotFoundError(message)
    return traced


class _Pair(NamedTuple):
    """An ancestor of the one and an ancestor of the other that play the same part; with the bytes that were read."""

    before: str
    after: str
    read_before: str | None
    read_after: str | None


class _Comparison:
    """One walk through two ancestries."""

    def __init__(self, before: Lineage, after: Lineage) -> None:
        self._before = before.by_key()
        self._after = after.by_key()
        self._roots = before.root, after.root

    def difference(self) -> Difference:
        """Compare all pairs, upstream first."""
        before, after = self._roots
        root = _Pair(before.key, after.key, before.fingerprint, after.fingerprint)
        pairs = dag.walk([root], self._upstream)
        downstream = _shortest_ways(pairs, root)
        causes: dict[object, Change] = {}
        places: defaultdict[object, list[str]] = defaultdict(list)
        changed: set[_Pair] = set()
        for pair, upstream_of in pairs.items():
            found = list(self._changes(pair))
            is_changed = bool(found) or any(upstream in changed for upstream in upstream_of)
            if not is_changed:
                found = list(self._consequences(pair))
            if found or is_changed:
                changed.add(pair)
            for change in found:
                key = _identity(change)
                if key in causes:
                    places[key].append(change.where)
                else:
                    causes[key] = replace(change, route=self._route(pair, downstream))
        told = (replace(cause, others=tuple(dict.fromkeys(places[key]))) for key, cause in causes.items())
        return Difference(before.path, after.path, tuple(told))

    def _route(self, pair: _Pair, downstream: Mapping[_Pair, _Pair]) -> tuple[str, ...]:
        steps = [self._after[pair.after].path]
        while pair in downstream:
            pair = downstream[pair]
            steps.append(self._after[pair.after].path)
        return tuple(reversed(steps))

    def _nodes(self, pair: _Pair) -> tuple[Ancestor, Ancestor]:
        return self._before[pair.before], self._after[pair.after]

    def _is_settled(self, pair: _Pair) -> bool:
        """Say whether two are the same bytes, of which nothing more can be compared."""
        before, after = self._nodes(pair)
        is_same = pair.read_before is not None and pair.read_before == pair.read_after
        return is_same and not (_is_followed(before) and _is_followed(after))

    def _upstream(self, pair: _Pair) -> list[_Pair]:
        before, after = self._nodes(pair)
        if self._is_settled(pair) or not (_is_followed(before) and _is_followed(after)):
            return []
        return [
            _Pair(one.key, other.key, one.fingerprint, other.fingerprint)
            for one, other in self._matched(before, after)
            if one is not None and other is not None
        ]

    def _matched(self, before: Ancestor, after: Ancestor) -> list[tuple[Link | None, Link | None]]:
        """Give the inputs that belong together; those without a counterpart come with None."""
        groups: defaultdict[object, tuple[list[Link], list[Link]]] = defaultdict(lambda: ([], []))
        for side, node, nodes in ((0, before, self._before), (1, after, self._after)):
            for link in node.inputs:
                if not link.closes_circle:
                    role = tuple(None if isinstance(part, int) else part for part in link.role)
                    groups[link.is_dynamic, role, nodes[link.key].task_family][side].append(link)
        matched: list[tuple[Link | None, Link | None]] = []
        for ones, others in groups.values():
            same, ones_left, others_left = _paired(
                [(self._before[link.key].task_id, link) for link in ones],
                [(self._after[link.key].task_id, link) for link in others],
            )
            placed, ones_left, others_left = _paired(
                [(link.role, link) for link in ones_left], [(link.role, link) for link in others_left]
            )
            count = min(len(ones_left), len(others_left))
            matched += [*same, *placed, *zip(ones_left[:count], others_left[:count], strict=True)]
            matched += [(link, None) for link in ones_left[count:]]
            matched += [(None, link) for link in others_left[count:]]
        return matched

    def _changes(self, pair: _Pair) -> Iterator[Change]:
        before, after = self._nodes(pair)
        if self._is_settled(pair):
            return
        if not (_is_followed(before) and _is_followed(after)):
            if pair.read_before != pair.read_after:
                yield Change(after.path, "fingerprint", pair.read_before, pair.read_after, after.task_family)
            elif before.task_id != after.task_id:
                yield Change(after.path, "task_id", before.task_id, after.task_id, after.task_family)
            return
        yield from changes_of(before.record or {}, after.record or {}, after.path)
        for one, other in self._matched(before, after):
            if one is None and other is not None:
                path = self._after[other.key].path
                yield Change(after.path, field_of(other.role), None, path, after.task_family)
            if one is not None and other is None:
                path = self._before[one.key].path
                yield Change(after.path, field_of(one.role), path, None, after.task_family)

    def _consequences(self, pair: _Pair) -> Iterator[Change]:
        """Give what may differ because of anything that a task was made from."""
        before, after = self._nodes(pair)
        if self._is_settled(pair) or before.record is None or after.record is None:
            return
        for name in _all_names(before.record, after.record):
            if name not in RECORD_FIELDS and before.record.get(name) != after.record.get(name):
                values = before.record.get(name), after.record.get(name)
                yield Change(after.path, f"metadata.{name}", *values, after.task_family)
        if before.fingerprint != after.fingerprint:
            yield Change(after.path, "output", before.fingerprint, after.fingerprint, after.task_family)


def _shortest_ways(pairs: Mapping[_Pair, tuple[_Pair, ...]], root: _Pair) -> dict[_Pair, _Pair]:
    """Give to each pair the one downstream by which it is reached from the root in the fewest steps."""
    downstream: dict[_Pair, _Pair] = {}
    pending = deque([root])
    while pending:
        pair = pending.popleft()
        for upstream in pairs[pair]:
            if upstream not in downstream:
                downstream[upstream] = pair
                pending.append(upstream)
    return downstream


def changes_of(before: Mapping[str, Any], after: Mapping[str, Any], where: str) -> Iterator[Change]:
    """Give what of two records decides on the output and differs, but for the inputs.

    Of packages only those that both had loaded: which others are in a record depends on what ran before.
    """
    family = after.get("task_family")
    for name in ("task_family", "version", "code", "python"):
        if before.get(name) != after.get(name):
            yield Change(where, name, before.get(name), after.get(name), family)
    for name, only_common in (("params", False), ("packages", True)):
        one, other = before.get(name) or {}, after.get(name) or {}
        for key in _all_names(one, other):
            if one.get(key) != other.get(key) and not (only_common and not (key in one and key in other)):
                yield Change(where, f"{name}.{key}", one.get(key), other.get(key), family)


def _all_names(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*one, *other]))


def _is_followed(node: Ancestor) -> bool:
    return node.record is not None and node.state is not State.REPLACED


def field_of(role: Role) -> str:
    """Give the field of a change that is of an input."""
    return dag.in_words(("input", *role))


def _paired(
    ones: Sequence[tuple[object, Link]], others: Sequence[tuple[object, Link]]
) -> tuple[list[tuple[Link, Link]], list[Link], list[Link]]:
    """Give the links with the same key as pairs, and what is left of both; a key of None is like no other."""
    by_key: defaultdict[object, list[Link]] = defaultdict(list)
    for key, link in reversed(others):
        by_key[key].append(link)
    pairs, left = [], []
    for key, link in ones:
        if key is not None and by_key[key]:
            pairs.append((link, by_key[key].pop()))
        else:
            left.append(link)
    taken = {id(other) for _, other in pairs}
    return pairs, left, [link for _, link in others if id(link) not in taken]


def _identity(change: Change) -> object:
    """Give what makes two changes one: of a parameter that is handed on, of a class, of the environment, of a file."""
    values = change.field, repr(change.before), repr(change.after)
    if change.field.startswith(("params.", "packages.")) or change.field in ("python", "fingerprint"):
        return values
    if change.field in ("version", "code"):
        return (*values, change.task_family)
    return (*values, change.where)
