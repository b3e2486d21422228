"""What can be drawn in every form and written to a file; what is drawn as one where there are too many."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from superluigi import visuals
from superluigi.errors import ConfigError, MissingExtraError, StorageError
from superluigi.markup import Tone
from superluigi.pictures.drawings import Drawing
from superluigi.pictures.groups import collapsed, groups_of
from superluigi.visuals import Edge, Graph, Look, Node

LOOKS = {"there": Look("✓", Tone.GOOD, "is there"), "gone": Look("✗", Tone.BAD, "is not there")}
HOSTILE = "</text><script>alert(1)</script>\"`'&amp;\\N#35;|]}\x1b[2J\n\u202etxt.exe\ud800"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Picture(Drawing):
    graph: Graph

    def _graph(self):
        return self.graph

    def to_dict(self):
        return {"roots": list(self.graph.roots)}


def fan(width, *, roles=lambda number: f"days.{number}", state="there"):
    days = [Node(f"d{number}", f"Day(n={number})", state, group="Day") for number in range(width)]
    top = Node("top", "Top()", "there", "", tuple(Edge(day.key, roles(n)) for n, day in enumerate(days)), "Top")
    return Graph("", ("top",), (*days, top), LOOKS)


@pytest.fixture
def pygraphviz(monkeypatch, tmp_path):
    """Only the Graphviz that comes with the extra."""
    pytest.importorskip("pygraphviz", reason="pygraphviz is not installed (superluigi[visuals])")
    monkeypatch.setenv("PATH", str(tmp_path))


# Files


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("g.txt", "✓ Top()".encode()),
        ("g.mmd", b"flowchart"),
        ("g.gv", b"digraph"),
        ("g.HTML", b"<!DOCTYPE html>"),
        ("g.json", b"{"),
        ("g.svg", b"<?xml"),
        ("g.png", b"\x89PNG"),
        ("g.pdf", b"%PDF"),
    ],
)
def test_the_name_of_a_file_says_its_form(name, begins, pygraphviz, tmp_path):
    path = tmp_path / name
    path.write_text("old")

    assert Picture(fan(2)).save(str(path)) == path

    assert path.read_bytes().startswith(begins)
    assert list(tmp_path.iterdir()) == [path]


def test_a_form_can_be_said_where_the_name_does_not(tmp_path):
    Picture(fan(2)).save(tmp_path / "graph", form="json")

    assert json.loads((tmp_path / "graph").read_text()) == {"roots": ["top"]}


@pytest.mark.parametrize(("name", "form"), [("g.jpeg", None), ("g", None), ("g.svg", "jpeg")])
def test_a_form_that_nobody_knows_is_refused_before_anything_is_written(name, form, tmp_path):
    with pytest.raises(ConfigError, match=r"\.svg|one of text, mermaid"):
        Picture(fan(2)).save(tmp_path / name, form=form)

    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_file_is_made(tmp_path):
    path = Picture(fan(2)).save(tmp_path / "pictures" / "of today" / "g.mmd")

    assert path.read_text().startswith("flowchart")
    assert [child.name for child in path.parent.iterdir()] == ["g.mmd"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    (tmp_path / "g.txt").mkdir()

    with pytest.raises(StorageError):
        Picture(fan(2)).save(tmp_path / "g.txt")

    assert [path.name for path in tmp_path.iterdir()] == ["g.txt"]


# Graphviz


def test_without_graphviz_it_is_said_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pygraphviz", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'superluigi\[visuals\]'"):
        Picture(fan(2)).to_svg()


def test_a_picture_holds_hostile_names_as_text(pygraphviz):
    upstream = Node(f"{HOSTILE}1", HOSTILE, HOSTILE, HOSTILE)
    top = Node(HOSTILE, HOSTILE, HOSTILE, HOSTILE, (Edge(upstream.key, HOSTILE),))
    graph = Graph(HOSTILE, (top.key,), (upstream, top), {HOSTILE: Look("✓", Tone.GOOD, HOSTILE)})

    drawn = Picture(graph).to_svg()

    assert "<script" not in drawn
    assert "alert(1)" in drawn
    assert "\x1b" not in drawn


def test_of_many_tasks_the_picture_shows_families(pygraphviz):
    drawn = Picture(fan(2000)).to_svg()

    assert f"Day {TIMES} 2000" in drawn or "Day &#215; 2000" in drawn
    assert len(drawn) < 5000


def test_what_graphviz_cannot_draw_is_told(monkeypatch, tmp_path):
    dot = tmp_path / "dot"
    dot.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    dot.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match="Graphviz could not draw it: it is broken"):
        Picture(fan(2)).to_png()


# Groups


def test_tasks_of_one_family_are_one_with_their_number_and_their_states():
    graph = fan(5)
    broken = Node("d0", "Day(n=0)", "gone", group="Day")

    drawn = collapsed(Graph("", ("top",), (broken, *graph.nodes[1:]), LOOKS))

    (top, days) = drawn.nodes
    assert (days.label, days.detail, days.state) == (f"Day {TIMES} 5", "✗ 1 gone, ✓ 4 there", "gone")
    assert top.edges == (Edge(days.key, "days"),)
    assert "Top()" in visuals.text(drawn)


def test_a_family_in_two_roles_is_two_and_in_very_many_is_one():
    two = fan(10, roles=lambda number: "train" if number % 2 else "test")
    many = fan(10, roles=lambda number: f"on 2022-12-{number}")

    assert {label for label in groups_of(two).values() if label != "Top"} == {"Day (train)", "Day (test)"}
    assert {label for label in groups_of(many).values() if label != "Top"} == {"Day"}


def test_a_family_that_requires_itself_is_one_with_an_edge_to_itself():
    links = [Node(f"{n}", f"Link({n})", "there", "", (Edge(f"{n - 1}"),) if n else (), "Link") for n in range(10_000)]

    (link,) = collapsed(Graph("", ("9999",), tuple(links), LOOKS)).nodes

    assert link.label == f"Link {TIMES} 10000"
    assert link.edges == (Edge(link.key),)


def test_what_has_no_family_stands_for_itself():
    nodes = (Node("a", "a", "there"), Node("b", "b", "there", "", (Edge("a", "0"),)))
    graph = Graph("", ("b",), nodes, LOOKS)

    assert collapsed(graph) == graph


def test_paths_are_given_back_as_paths(tmp_path):
    assert isinstance(Picture(fan(1)).save(tmp_path / "g.dot"), Path)
