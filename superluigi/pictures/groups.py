"""What stands for many: the nodes of one group in one role, drawn as one box with their number.

The invariant: whatever the graph, a group is a set of nodes that share a group, and every node is in one box or stands
for itself; nothing is decided by the order in which nodes come. Linear in nodes plus edges.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from superluigi.markup import Tone
from superluigi.visuals import Edge, Graph, Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MAX_ROLES = 4  # sets of roles by which the nodes of one group are told apart; more of them tell nothing
_FIRST_NOTICED = (Tone.BAD, Tone.NOTE, Tone.PLAIN, Tone.FAINT, Tone.GOOD)


def groups_of(graph: Graph) -> dict[str, str]:
    """Give for each node that has a group the name of those that may be drawn as one with it.

    They are of one group, and what is downstream leads to them in the same roles, positions in a list or numbers in a
    name aside: `DayTask (train)` and `DayTask (test)`. Where roles say too much, as a dict with a key for every day
    does, the group alone counts.
    """
    roles: dict[str, set[str]] = {node.key: set() for node in graph.nodes if node.group}
    for node in graph.nodes:
        for edge in node.edges:
            if edge.upstream in roles:
                roles[edge.upstream].add(_general(edge.label))
    told = {key: " or ".join(sorted(filter(None, found))) for key, found in roles.items()}
    by_group: defaultdict[str, set[str]] = defaultdict(set)
    for node in graph.nodes:
        if node.group:
            by_group[node.group].add(told[node.key])
    is_told = {group for group, found in by_group.items() if 1 < len(found) <= _MAX_ROLES}
    return {
        node.key: f"{node.group} ({told[node.key]})" if node.group in is_told and told[node.key] else node.group
        for node in graph.nodes
        if node.group
    }


def _general(role: str) -> str:
    """Give a role without the positions in it."""
    return ".".join(part for part in role.split(".") if not part.isdecimal())


def collapsed(graph: Graph) -> Graph:
    """Give the graph with one node for each group of several, whose detail says how many are in which state.

    Of several states the group has that which is to be noticed first. An edge leads from a group to itself where its
    members require each other; groups may form circles.
    """
    groups = groups_of(graph)
    members: defaultdict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.key in groups:
            members[groups[node.key]].append(node)
    several = {name: found for name, found in members.items() if len(found) > 1}
    box = {node.key: node.key for node in graph.nodes}
    box.update((node.key, f"\0{name}") for name, found in several.items() for node in found)
    nodes = [replace(node, edges=_led(node.edges, box)) for node in graph.nodes if box[node.key] == node.key]
    nodes += [_as_one(name, found, graph, box) for name, found in several.items()]
    return replace(graph, roots=tuple(dict.fromkeys(box[key] for key in graph.roots)), nodes=tuple(nodes))


def _as_one(name: str, members: Sequence[Node], graph: Graph, box: Mapping[str, str]) -> Node:
    counts = Counter(node.state for node in members)
    states = sorted(counts, key=lambda state: _FIRST_NOTICED.index(graph.looks[state].tone))
    detail = ", ".join(f"{graph.looks[state].sign} {counts[state]} {state}" for state in states)
    edges = _led((edge for node in members for edge in node.edges), box)
    return Node(f"\0{name}", f"{name} × {len(members)}", states[0], detail, edges, members[0].group)  # noqa: RUF001


def _led(edges: Iterable[Edge], box: Mapping[str, str]) -> tuple[Edge, ...]:
    """Give the edges to what stands for the nodes, each once; its label where all of them say the same."""
    found: dict[str, Edge] = {}
    for edge in edges:
        known = found.get(box[edge.upstream])
        label = _general(edge.label) if box[edge.upstream] != edge.upstream else edge.label
        if known is None:
            found[box[edge.upstream]] = Edge(box[edge.upstream], label)
        elif known.label != label:
            found[box[edge.upstream]] = Edge(box[edge.upstream])
    return tuple(found.values())
