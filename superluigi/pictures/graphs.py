"""The page of a graph: to move and zoom in, to search and filter, with what is known of a task on a click.

Drawn by Cytoscape.js and laid out by dagre; `assets/graph.js` says which boxes there are. The invariant: the browser
draws no more than a few hundred boxes, whatever the size of the graph; and what stands in the data is shown as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from superluigi.markup import COLOURS, DARK_GROUND, LIGHT_GROUND, clean
from superluigi.pictures import pages
from superluigi.pictures.groups import groups_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from superluigi.visuals import Graph, Node

_MAX_CHARACTERS = 1000  # of one fact


@dataclass(frozen=True, slots=True)
class Section:
    """Some of what is known of a node: facts, each with a name or without; `is_folded` shows them when asked for."""

    title: str
    rows: tuple[tuple[str, str], ...]
    is_folded: bool = False


def interactive(graph: Graph, sections: Callable[[Node], Iterable[Section]]) -> str:
    """Give the page of a graph, with what `sections` tells of each node. Linear in nodes plus edges."""
    title = clean(graph.title) or "Graph"
    return pages.page(
        title,
        body=pages.asset("graph.html"),
        data=_told(title, graph, sections),
        styles=[_tones(), pages.asset("graph.css")],
        scripts=map(pages.asset, ("cytoscape.min.js", "cytoscape-dagre.min.js", "graph.js")),
    )


def _told(title: str, graph: Graph, sections: Callable[[Node], Iterable[Section]]) -> dict[str, Any]:
    """Give the graph in short: nodes are known by their position, and what many have in common stands once."""
    index = {node.key: number for number, node in enumerate(graph.nodes)}
    groups = groups_of(graph)
    names, states = _Names(), _Names(graph.looks)
    nodes = []
    for node in graph.nodes:
        told = [
            [names[clean(section.title)], int(section.is_folded), [_row(row, names) for row in section.rows]]
            for section in sections(node)
            if section.rows
        ]
        upstream = [part for edge in node.edges for part in (index[edge.upstream], names[clean(edge.label)])]
        group, role_group = names[clean(node.group)], names[clean(groups.get(node.key, ""))]
        nodes.append([clean(node.key), clean(node.label), states[node.state], group, role_group, upstream, told])
    return {
        "title": title,
        "looks": [
            [clean(state), clean(look.sign), look.tone.value, clean(look.meaning)]
            for state, look in graph.looks.items()
        ],
        "roots": [index[key] for key in graph.roots],
        "names": list(names),
        "nodes": nodes,
    }


def _row(row: tuple[str, str], names: _Names) -> list[Any]:
    name, fact = row
    return [names[clean(name)], clean(fact, max_characters=_MAX_CHARACTERS)]


class _Names(dict[str, int]):
    """Numbers names as they come."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__({name: number for number, name in enumerate(names)})

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number


def _tones() -> str:
    """Give the colours as variables, for light and for dark ground."""
    light = [f"--ground:{LIGHT_GROUND}"]
    dark = [f"--ground:{DARK_GROUND}"]
    for tone, (fill, line, ink, on_light, on_dark) in COLOURS.items():
        light += [f"--{tone.value}-fill:{fill}", f"--{tone.value}-line:{line}", f"--{tone.value}-ink:{ink}"]
        light.append(f"--{tone.value}:{on_light}")
        dark += [f"--{tone.value}-fill:{_mixed(on_dark, DARK_GROUND, 0.2)}", f"--{tone.value}-line:{on_dark}"]
        dark += [f"--{tone.value}-ink:#f0f3f6", f"--{tone.value}:{on_dark}"]
    return f":root{{{';'.join(light)}}}@media (prefers-color-scheme:dark){{:root{{{';'.join(dark)}}}}}"


def _mixed(colour: str, ground: str, share: float) -> str:
    """Give a share of a colour on a ground; the canvas knows no `color-mix`."""
    pairs = [(int(colour[at : at + 2], 16), int(ground[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(share * own + (1 - share) * below):02x}" for own, below in pairs)
