"""Draw docs/pictures/way_of_the_data.svg: `python docs/pictures/way_of_the_data.py` writes it anew.

All text stands on boxes with a ground of their own, and lines are of a grey between black and white, so that the
picture reads on light ground and on dark.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 920, 500
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
LINE = "#8b8f9b"
OURS, YOURS, STORED = "#3949ab", "#00796b", "#6d4c41"


@dataclass(frozen=True)
class Box:
    """A box with a title and lines below it; the colour says whose it is."""

    x: int
    y: int
    width: int
    height: int
    colour: str
    title: str
    lines: tuple[str, ...] = ()

    def drawn(self) -> str:
        """Give it as SVG."""
        middle = self.x + self.width // 2
        top = self.y + self.height / 2 - 9 * len(self.lines) + 5
        rows = [f'<text x="{middle}" y="{top:g}" font-weight="600" font-size="15">{escape(self.title)}</text>']
        rows += [
            f'<text x="{middle}" y="{top + 18 * row:g}" font-size="12.5">{escape(line)}</text>'
            for row, line in enumerate(self.lines, start=1)
        ]
        box = (
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="8" fill="{self.colour}"/>'
        )
        return "\n".join([box, *rows])


BOXES = [
    Box(20, 20, 250, 74, OURS, "run_task(task)", ("applies config, finds out what is", "missing, forced or stale")),
    Box(
        335,
        20,
        250,
        74,
        OURS,
        "the worker",
        ("Luigi's: order, priorities, resources,", "retries; here or on an executor"),
    ),
    Box(650, 20, 250, 74, STORED, "inputs, with their records", ("files, folders, S3 objects, prefixes",)),
    Box(335, 142, 250, 74, OURS, "private inputs", ("a copy each, under its own name;", "fingerprints are noted")),
    Box(
        650, 142, 250, 74, STORED, "the cache", ("of what is in S3: served only", "while the ETag is the recorded one")
    ),
    Box(
        335,
        264,
        250,
        74,
        YOURS,
        "your run(...)",
        ("reads input_path, writes output_path,", "fills metadata: local paths"),
    ),
    Box(20, 264, 250, 74, OURS, "staging", ("fresh paths beside the destination;", "removed if run fails")),
    Box(
        20,
        386,
        250,
        94,
        OURS,
        "the check",
        ("what was promised is there;", "expect holds; JSON can hold", "the metadata"),
    ),
    Box(
        335, 386, 250, 94, OURS, "1. the record", ("task, parameters, inputs, code,", "times, packages: written first")
    ),
    Box(
        650,
        386,
        250,
        94,
        STORED,
        "2. the output",
        ("one rename or one PUT:", "the old one, or the new one,", "never half of one"),
    ),
]

ARROWS = [
    ((270, 57), (335, 57)),
    ((460, 94), (460, 142)),
    ((775, 94), (775, 142)),
    ((650, 179), (585, 179)),
    ((460, 216), (460, 264)),
    ((335, 301), (270, 301)),
    ((145, 338), (145, 386)),
    ((270, 433), (335, 433)),
    ((585, 433), (650, 433)),
]


def picture() -> str:
    """Give the picture."""
    arrows = [f'<path d="M{x1} {y1}L{x2} {y2}" marker-end="url(#tip)"/>' for (x1, y1), (x2, y2) in ARROWS]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">',
        '<title id="title">The way of the data, from run_task to the published output</title>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">',
        f'<path d="M0 0L10 5L0 10z" fill="{LINE}" stroke="none"/></marker></defs>',
        f'<g stroke="{LINE}" stroke-width="2" fill="none">',
        *arrows,
        "</g>",
        f'<g font-family="{FONT}" text-anchor="middle" fill="#fff">',
        *(box.drawn() for box in BOXES),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
