"""The page of a timeline: bars on rows, a table of what they stand for, and what there is to say of each.

Apache ECharts draws the bars (`assets/NOTICE.md`). The invariant: everything that is told arrives in the page as data,
is cut to what can be read, and becomes text there, never markup.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from superluigi.markup import COLOURS, DARK_GROUND, LIGHT_GROUND, Tone, clean, clean_lines
from superluigi.pictures.pages import asset, page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_NOTE = 400  # characters
_MAX_STORIES = 200  # of which all is told, of the others their first line alone


@dataclass(frozen=True, slots=True)
class Look:
    """How a state is shown: a sign, so that it can be told without colours, and a tone."""

    sign: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the timeline: what it stands for, and a word on it."""

    name: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that lasted, on the row of that number: seconds from the beginning.

    `item` is the number of what it belongs to, -1 if that is nothing.
    """

    row: int
    begin_s: float
    end_s: float
    state: str
    label: str
    item: int = -1
    note: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """A line of the table. `more` is said of it where it is looked at: names, each with what there is of it."""

    name: str
    family: str
    state: str
    tries: int
    begin_s: float | None
    took_s: float
    why: str
    where: str
    is_marked: bool = False
    more: Sequence[tuple[str, Sequence[str]]] = ()


@dataclass(frozen=True, slots=True)
class Story:
    """What went wrong: a title, why, names with what there is of each, and a long text that is folded away."""

    title: str
    why: str
    told: Sequence[tuple[str, Sequence[str]]] = ()
    text: str = ""
    item: int = -1


@dataclass(frozen=True, slots=True)
class Table:
    """A table of numbers and words; what is a number is sorted and shown as its `units` say: "", "s" or "B"."""

    title: str
    head: Sequence[str]
    units: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Timeline:
    """All that the page tells. `looks` are those of the states, `marked` is what is said of marked items."""

    title: str
    state: str
    facts: Sequence[tuple[str, str]]
    duration_s: float
    began_at_s: float  # since 1970, in UTC
    looks: Mapping[str, Look]
    rows: Sequence[Row]
    bars: Sequence[Bar]
    items: Sequence[Item]
    stories: Sequence[Story] = ()
    tables: Sequence[Table] = ()
    marked: str = ""
    notes: Sequence[str] = ()


def timeline_page(told: Timeline) -> str:
    """Give the page."""
    return page(
        told.title,
        body=asset("timeline.html"),
        data=_told(told),
        styles=[_colours(), asset("timeline.css")],
        scripts=[asset("echarts.custom.min.js"), asset("timeline.js")],
    )


def _told(timeline: Timeline) -> dict[str, Any]:
    numbers = {state: number for number, state in enumerate(timeline.looks)}
    return {
        "title": clean(timeline.title),
        "state": timeline.state,
        "facts": [[clean(name), clean(said, max_characters=_MAX_NOTE)] for name, said in timeline.facts],
        "duration": _rounded(timeline.duration_s),
        "began": _rounded(timeline.began_at_s),
        "looks": [[state, look.sign, look.tone.value] for state, look in timeline.looks.items()],
        "rows": [[clean(row.name), clean(row.note)] for row in timeline.rows],
        "bars": [
            [
                bar.row,
                _rounded(bar.begin_s),
                _rounded(max(bar.begin_s, bar.end_s)),
                numbers[bar.state],
                bar.item,
                "" if bar.item >= 0 and bar.label == timeline.items[bar.item].family else clean(bar.label),
                clean(bar.note, max_characters=_MAX_NOTE),
            ]
            for bar in timeline.bars
        ],
        "items": [
            [
                clean(item.name),
                clean(item.family),
                numbers[item.state],
                item.tries,
                None if item.begin_s is None else _rounded(item.begin_s),
                _rounded(item.took_s),
                clean(item.why, max_characters=_MAX_NOTE),
                clean(item.where),
                int(item.is_marked),
                _pairs(item.more),
            ]
            for item in timeline.items
        ],
        "stories": [
            [
                clean(story.title),
                clean_lines(story.why) if number < _MAX_STORIES else clean(story.why, max_characters=_MAX_NOTE),
                _pairs(story.told) if number < _MAX_STORIES else [],
                clean_lines(story.text) if number < _MAX_STORIES else "",
                story.item,
            ]
            for number, story in enumerate(timeline.stories)
        ],
        "tables": [_cleaned(table) for table in timeline.tables],
        "marked": clean(timeline.marked, max_characters=_MAX_NOTE),
        "notes": [clean(note, max_characters=_MAX_NOTE) for note in timeline.notes],
    }


def _rounded(seconds: float) -> float:
    return round(seconds, 4)


def _pairs(told: Sequence[tuple[str, Sequence[str]]]) -> list[Any]:
    return [[clean(name), [clean(line, max_characters=_MAX_NOTE) for line in lines]] for name, lines in told if lines]


def _cleaned(table: Table) -> dict[str, Any]:
    rows = [[clean(cell) if isinstance(cell, str) else cell for cell in row] for row in table.rows]
    return {**asdict(table), "rows": rows}


def _colours() -> str:
    """Give the colours of bars and of words, for light and for dark ground, as variables of the page."""
    light = {"ground": LIGHT_GROUND, "ink": "#1f2328", "line": "#d0d7de", "panel": "#f6f8fa"}
    dark = {"ground": DARK_GROUND, "ink": "#e6edf3", "line": "#3d444d", "panel": "#20262d"}
    for tone, (fill, line, ink, on_light, on_dark) in COLOURS.items():
        # On dark ground the line of a light box is a box that white can be read on.
        light |= {
            f"{tone.value}": on_light,
            f"{tone.value}-fill": fill,
            f"{tone.value}-line": line,
            f"{tone.value}-ink": ink,
        }
        dark |= {
            f"{tone.value}": on_dark,
            f"{tone.value}-fill": line,
            f"{tone.value}-line": on_dark,
            f"{tone.value}-ink": "#ffffff",
        }
    return f":root{{{_variables(light)}}}@media screen and (prefers-color-scheme:dark){{:root{{{_variables(dark)}}}}}"


def _variables(values: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in values.items())
