"""Graphs as pictures, and facts as tables: text, Mermaid, DOT and HTML, by the standard library alone.

Whoever has something to draw describes it as a `Graph`: nodes with a key, a label and a state, each with edges to
what is upstream of it, and for every state a `Look`, which says by what sign and in which tone it is drawn, and what
it means. The lineage of an output is drawn so, and so is a tree of tasks; nothing here knows of either.

The invariant: whatever a label holds, it is shown as text: it ends no quotation, opens no tag, and moves no cursor.
Every function is linear in nodes plus edges, without recursion, and takes graphs with circles.
"""

from __future__ import annotations

import enum
import hashlib
import html
import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from superluigi import markup
from superluigi.markup import COLOURS, Tone, clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "Edge",
    "Graph",
    "Look",
    "Node",
    "dot",
    "fragment",
    "mermaid",
    "page",
    "table",
    "text",
]

_MAX_DEPTH = 40  # levels of a tree that are indented; what is deeper goes on at the margin
_NOT_IN_MERMAID = re.compile(r"[^\w ./:=,+@-]|__")  # two underscores begin bold text there


@dataclass(frozen=True, slots=True)
class Look:
    """How a state is drawn: by a sign of one character, so that it is told without colours too, and by its tone."""

    sign: str
    tone: Tone
    meaning: str


@dataclass(frozen=True, slots=True)
class Edge:
    """What leads from a node to one that is upstream of it; the label says in which role."""

    upstream: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """One thing that is drawn: `label` names it, `detail` says more in a few words.

    Where there are too many to be drawn, those of one `group` may be drawn as one.
    """

    key: str
    label: str
    state: str
    detail: str = ""
    edges: tuple[Edge, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """What is drawn, beginning with the roots, which are downstream of all else.

    `nodes` may be in any order. Every key that a root or an edge names is that of a node, every state has a look.
    """

    title: str
    roots: tuple[str, ...]
    nodes: tuple[Node, ...]
    looks: Mapping[str, Look] = field(hash=False)


_TERMINAL = {Tone.GOOD: "32", Tone.PLAIN: "34", Tone.NOTE: "33", Tone.BAD: "31", Tone.FAINT: "90"}


# Text


def text(graph: Graph, *, colour: bool = False) -> str:
    """Give the graph as a tree, what is upstream indented below; ends without a newline.

    A node that is upstream of several is shown where it is first met, and named wherever else it belongs. What is
    deeper than 40 levels goes on at the margin. `colour` adds the codes of a terminal; the signs are there anyway.
    """
    lines = [clean(graph.title)] if graph.title else []
    for row in _rows(graph):
        look = graph.looks[row.node.state]
        role = f"{clean(row.role)}: " if row.role else ""
        shown = f"{look.sign} {clean(row.node.label)}"
        if colour:
            shown = f"\x1b[{_TERMINAL[look.tone]}m{shown}\x1b[0m"
        lines.append(f"{row.branch}{role}{shown}{_said_of(row)}")
    legend = "; ".join(f"{look.sign} {state}: {look.meaning}" for state, look in _looks_in(graph))
    return "\n".join([*lines, legend] if legend else lines)


def _said_of(row: _Row) -> str:
    if row.place is not _Place.HERE:
        return f" ({row.place.value})"
    return f"  {clean(row.node.detail)}" if row.node.detail else ""


class _Place(enum.Enum):
    """Where the upstream of a node in a tree is."""

    HERE = "here"
    ABOVE = "shown above"
    BELOW = "continued below"


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a tree."""

    node: Node
    role: str
    place: _Place
    depth: int
    branch: str


def _rows(graph: Graph) -> Iterator[_Row]:
    nodes = {node.key: node for node in graph.nodes}
    shown: set[str] = set()
    starts = deque(graph.roots)
    while starts:
        start = starts.popleft()
        pending = [] if start in shown else [(Edge(start), 0, "", "")]
        while pending:
            edge, depth, branch, trunk = pending.pop()
            node = nodes[edge.upstream]
            place = _Place.HERE
            if node.key in shown:
                place = _Place.ABOVE
            elif depth >= _MAX_DEPTH and node.edges:
                place = _Place.BELOW
                starts.append(node.key)
            else:
                shown.add(node.key)
            yield _Row(node, edge.label, place, depth, branch)
            if place is _Place.HERE and node.edges:
                *others, last = node.edges
                pending.append((last, depth + 1, f"{trunk}└── ", f"{trunk}    "))
                pending.extend((other, depth + 1, f"{trunk}├── ", f"{trunk}│   ") for other in reversed(others))


def _looks_in(graph: Graph) -> list[tuple[str, Look]]:
    present = {node.state for node in graph.nodes}
    return [(state, look) for state, look in graph.looks.items() if state in present]


# Mermaid and DOT


def mermaid(graph: Graph) -> str:
    """Give the graph as a Mermaid flowchart, arrows in the direction of the data; ends with a newline.

    Mermaid itself draws no more than 500 arrows unless its `maxEdges` is set.
    """
    names = {node.key: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for node in graph.nodes:
        parts = [f"{graph.looks[node.state].sign} {node.label}", node.detail]
        label = "<br/>".join(_for_mermaid(part) for part in parts if part)
        lines.append(f'    {names[node.key]}["{label}"]:::{graph.looks[node.state].tone.value}')
    for node in graph.nodes:
        for edge in node.edges:
            label = f'|"{_for_mermaid(edge.label)}"|' if edge.label else ""
            lines.append(f"    {names[edge.upstream]} -->{label} {names[node.key]}")
    for tone in dict.fromkeys(look.tone for _, look in _looks_in(graph)):
        fill, line, ink, *_ = COLOURS[tone]
        lines.append(f"    classDef {tone.value} fill:{fill},stroke:{line},color:{ink}")
    return "\n".join(lines) + "\n"


def _for_mermaid(label: str) -> str:
    """Escape by Mermaid's entity codes: https://mermaid.js.org/syntax/flowchart.html#entity-codes-to-escape-characters."""
    return _NOT_IN_MERMAID.sub(lambda found: "".join(f"#{ord(sign)};" for sign in found[0]), clean(label))


def dot(graph: Graph) -> str:
    """Give the graph in the language of Graphviz, arrows in the direction of the data; ends with a newline."""
    names = {node.key: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = [
        "digraph {",
        "    rankdir=LR",
        '    node [shape=box, style="rounded,filled", fontname="sans-serif"]',
        '    edge [fontname="sans-serif", color="#808080", fontcolor="#808080"]',
    ]
    for node in graph.nodes:
        look = graph.looks[node.state]
        fill, line, ink, *_ = COLOURS[look.tone]
        label = r"\n".join(_for_dot(part) for part in (f"{look.sign} {node.label}", node.detail) if part)
        style = f'fillcolor="{fill}", color="{line}", fontcolor="{ink}"'
        lines.append(f'    {names[node.key]} [label="{label}", {style}]')
    for node in graph.nodes:
        for edge in node.edges:
            label = f' [label="{_for_dot(edge.label)}"]' if edge.label else ""
            lines.append(f"    {names[edge.upstream]} -> {names[node.key]}{label}")
    return "\n".join([*lines, "}"]) + "\n"


def _for_dot(label: str) -> str:
    r"""Escape what ends a string, and what Graphviz reads in one: `\N` and its kin, and entities of HTML."""
    return clean(label).replace("\\", r"\\").replace('"', r"\"").replace("&", "&amp;")


# HTML


def page(graph: Graph) -> str:
    """Give the graph as a page of its own: one file without scripts, that loads nothing and reads on light and dark."""
    title = html.escape(clean(graph.title) or "Graph")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n</head>\n<body>\n{fragment(graph, max_rows=None)}</body>\n</html>\n"
    )


def fragment(graph: Graph, *, max_rows: int | None = 500) -> str:
    """Give the graph as a piece of a page, such as a notebook shows; `max_rows` None shows all of it."""
    marks = "\0".join([graph.title, *(node.key for node in graph.nodes)]).encode("utf-8", "backslashreplace")
    scope = f"sl-{hashlib.sha256(marks).hexdigest()[:8]}"  # two graphs on one page must not share their anchors
    anchors = {node.key: f"{scope}-{number}" for number, node in enumerate(graph.nodes)}
    lines = [markup.titled(graph.title) if graph.title else "", '<div role="list">']
    left_out = 0
    for number, row in enumerate(_rows(graph)):
        if max_rows is not None and number >= max_rows:
            left_out += 1
        else:
            lines.append(_row_as_html(row, graph.looks[row.node.state], anchors[row.node.key]))
    lines.append("</div>")
    if left_out:
        lines.append(f"<p>{left_out} more lines are left out here.</p>")
    legend = "; ".join(f"{look.sign} {state}: {look.meaning}" for state, look in _looks_in(graph))
    return markup.card(*lines, f'<p class="faint">{html.escape(legend)}</p>')


def table(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Give facts as a piece of a page, in the style of `fragment`; without rows the title alone."""
    return markup.card(markup.titled(title), markup.table(head, rows) if rows else "")


def _row_as_html(row: _Row, look: Look, anchor: str) -> str:
    label = html.escape(clean(row.node.label))
    role = f'<span class="role">{html.escape(clean(row.role))}</span> ' if row.role else ""
    is_here = row.place is _Place.HERE
    named = f"<span>{label}</span>" if is_here else f'<a href="#{anchor}">{label}</a>'
    said = f' <span class="faint">{html.escape(_said_of(row).strip())}</span>' if _said_of(row) else ""
    state = html.escape(row.node.state)
    mark = f' id="{anchor}"' if is_here else ""
    sign = f'<span class="{look.tone.value}" title="{state}">{html.escape(look.sign)} {state}</span>'
    return f'<div role="listitem"{mark} style="padding-left:{row.depth * 1.4:.1f}em">{role}{named} {sign}{said}</div>'
