"""Pictures of graphs: every form, whatever the labels hold, deep and wide graphs, and circles."""

import re

import pytest
from html_page import Page
from hypothesis import example, given
from hypothesis import strategies as st

from superluigi import markup, visuals
from superluigi.markup import Tone
from superluigi.visuals import Edge, Graph, Look, Node

LOOKS = {
    "complete": Look("✓", Tone.GOOD, "it is there"),
    "stale": Look("~", Tone.NOTE, "it is of older code"),
    "missing": Look("✗", Tone.BAD, "it will be made"),
}
HOSTILE = "</span><script>alert(1)</script>\"`'&amp;\\N#35;|]}\x1b[2J\n\u202etxt.exe\ud800"


def diamond(label="data/top.csv", role="left"):
    return Graph(
        "Tree of top",
        ("top",),
        (
            Node("base", "data/base.csv", "complete", "Base(n=1)"),
            Node("left", "data/left.csv", "stale", edges=(Edge("base"),)),
            Node("right", "data/right.csv", "complete", edges=(Edge("base", "from"),)),
            Node("top", label, "missing", edges=(Edge("left", role), Edge("right", "right"))),
        ),
        LOOKS,
    )


def chain(length):
    nodes = [Node(str(n), f"node {n}", "complete", edges=(Edge(str(n + 1)),)) for n in range(length - 1)]
    return Graph("", ("0",), (*nodes, Node(str(length - 1), f"node {length - 1}", "complete")), LOOKS)


def test_text_shows_what_is_shared_once_and_refers_to_it_after():
    assert visuals.text(diamond()).splitlines() == [
        "Tree of top",
        "✗ data/top.csv",
        "├── left: ~ data/left.csv",
        "│   └── ✓ data/base.csv  Base(n=1)",
        "└── right: ✓ data/right.csv",
        "    └── from: ✓ data/base.csv (shown above)",
        "✓ complete: it is there; ~ stale: it is of older code; ✗ missing: it will be made",
    ]


def test_text_in_colour_says_the_same_with_the_codes_of_a_terminal():
    coloured = visuals.text(diamond(), colour=True)

    assert re.sub(r"\x1b\[\d+m", "", coloured) == visuals.text(diamond())
    assert "\x1b[31m✗ data/top.csv\x1b[0m" in coloured


def test_several_roots_are_shown_one_after_the_other():
    graph = diamond()
    several = Graph("", ("left", "right"), graph.nodes, LOOKS)

    assert [line.split()[1] for line in visuals.text(several).splitlines() if line[0] in "~✓"][:2] == [
        "data/left.csv",
        "data/right.csv",
    ]


def test_mermaid_draws_arrows_in_the_direction_of_the_data():
    assert visuals.mermaid(diamond()).splitlines() == [
        "flowchart LR",
        '    n0["#10003; data/base.csv<br/>Base#40;n=1#41;"]:::good',
        '    n1["#126; data/left.csv"]:::note',
        '    n2["#10003; data/right.csv"]:::good',
        '    n3["#10007; data/top.csv"]:::bad',
        "    n0 --> n1",
        '    n0 -->|"from"| n2',
        '    n1 -->|"left"| n3',
        '    n2 -->|"right"| n3',
        "    classDef good fill:#dafbe1,stroke:#1a7f37,color:#0b3d1a",
        "    classDef note fill:#fff8c5,stroke:#9a6700,color:#4d2d00",
        "    classDef bad fill:#ffebe9,stroke:#cf222e,color:#5c0a10",
    ]


def test_dot_draws_arrows_in_the_direction_of_the_data():
    drawn = visuals.dot(diamond())

    assert drawn.startswith("digraph {\n")
    assert drawn.endswith("}\n")
    assert r'n0 [label="✓ data/base.csv\nBase(n=1)", fillcolor="#dafbe1"' in drawn
    assert "    n0 -> n1\n" in drawn
    assert '    n2 -> n3 [label="right"]\n' in drawn


def test_the_page_is_well_formed_and_its_references_lead_somewhere():
    page = Page(visuals.page(diamond()))

    assert page.tags[:4] == ["html", "head", "meta", "meta"]
    assert len(page.anchors) == len(set(page.anchors)) == 4
    assert len(page.aims) == 1
    assert set(page.aims) <= set(page.anchors)
    assert "prefers-color-scheme:dark" in visuals.page(diamond())


def test_two_fragments_on_one_page_do_not_share_anchors():
    first, second = Page(visuals.fragment(diamond())), Page(visuals.fragment(chain(4)))

    assert set(first.anchors) & set(second.anchors) == set()


def test_a_fragment_leaves_out_what_is_too_much_for_a_notebook_and_says_so():
    page = Page(visuals.fragment(chain(1000), max_rows=100))

    assert page.tags.count("div") == 100 + 2
    assert any("more lines are left out" in words for words in page.words)


@pytest.mark.parametrize("draw", [visuals.text, visuals.mermaid, visuals.dot, visuals.page])
def test_a_deep_chain_is_drawn_in_space_that_grows_with_its_length(draw):
    drawn = draw(chain(10_000))

    assert len(drawn) < 5_000_000
    assert all(f"node {number}" in drawn for number in (0, 41, 9_999))


def test_what_is_too_deep_to_be_indented_goes_on_at_the_margin():
    lines = visuals.text(chain(60)).splitlines()

    assert lines[40].endswith("node 40 (continued below)")
    assert lines[41] == "✓ node 40"


@pytest.mark.parametrize("draw", [visuals.text, visuals.mermaid, visuals.dot, visuals.page])
def test_a_circle_is_drawn_and_ends(draw):
    nodes = (Node("a", "first", "stale", edges=(Edge("b"),)), Node("b", "second", "stale", edges=(Edge("a"),)))

    assert "second" in draw(Graph("circle", ("a",), nodes, LOOKS))


# Whatever the labels hold


@given(label=st.text(max_size=300), role=st.text(max_size=30))
@example(label=HOSTILE, role=HOSTILE)
@example(label="x" * 10_000, role="__b__")
def test_no_label_breaks_out_of_any_picture(label, role):
    graph, plain = diamond(label, role), diamond()

    page = Page(visuals.page(graph))
    assert set(page.tags) == set(Page(visuals.page(plain)).tags)
    assert page.tags.count("div") == Page(visuals.page(plain)).tags.count("div")

    mermaid = visuals.mermaid(graph).split("\n")
    assert len(mermaid) == len(visuals.mermaid(plain).split("\n"))
    node = r'    n\d+\["(?:[^"`<>|\[\]{}\\;#&]|#\d+;|<br/>)*"\]:::\w+'
    edge = r'    n\d+ -->(?:\|"(?:[^"`<>|\[\]{}\\;#&]|#\d+;)*"\|)? n\d+'
    assert all(re.fullmatch(f"{node}|{edge}|    classDef .*", line) for line in mermaid[1:-1])

    dot = visuals.dot(graph).split("\n")
    assert len(dot) == len(visuals.dot(plain).split("\n"))
    string = r'"(?:[^"\\]|\\["\\n])*"'
    statement = rf"    n\d+(?: -> n\d+)?(?: \[(?:\w+={string}(?:, )?)+\])?"
    assert all(re.fullmatch(statement, line) for line in dot[4:-2])

    text = visuals.text(graph)
    assert len(text.split("\n")) == len(visuals.text(plain).split("\n"))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    for drawn in (*mermaid, *dot, text, visuals.page(graph)):
        drawn.encode("utf-8")


def contrast(first, second):
    def luminance(colour):
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("tone", Tone)
def test_every_tone_reads_on_light_and_on_dark_ground(tone):
    fill, _, ink, on_light, on_dark = markup.COLOURS[tone]

    assert (
        min(contrast(fill, ink), contrast(markup.LIGHT_GROUND, on_light), contrast(markup.DARK_GROUND, on_dark)) >= 4.5
    )
