"""Pieces of HTML for notebooks and pages: cards of facts, tables, and the one style for light and dark ground.

What is drawn with them, a task, a plan or a tree, is described elsewhere. The invariant: text becomes part of a page
only by way of `clean` and `html.escape`; no piece has a script, loads anything or draws without end.
"""

from __future__ import annotations

import enum
import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MAX_CHARACTERS = 240  # of one label
_MAX_FOLDED = 8000  # characters of what is shown when it is unfolded
# Control characters, and those that turn the direction of writing: they would let a name show as another one.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_UNSEEN_IN_LINES = re.compile(f"(?!\n){_UNSEEN.pattern}")


class Tone(enum.Enum):
    """How a state is to strike the eye; each has its colours on light and on dark ground."""

    GOOD = "good"
    PLAIN = "plain"
    NOTE = "note"
    BAD = "bad"
    FAINT = "faint"


# Fill, line and text of a box, which bring their own ground along; then the text alone on light, and on dark, ground.
COLOURS = {
    Tone.GOOD: ("#dafbe1", "#1a7f37", "#0b3d1a", "#116329", "#4ac26b"),
    Tone.PLAIN: ("#ddf4ff", "#0969da", "#0a3069", "#0550ae", "#6cb6ff"),
    Tone.NOTE: ("#fff8c5", "#9a6700", "#4d2d00", "#7d4e00", "#d4a72c"),
    Tone.BAD: ("#ffebe9", "#cf222e", "#5c0a10", "#a40e26", "#ff8182"),
    Tone.FAINT: ("#eaeef2", "#57606a", "#24292f", "#57606a", "#9aa4af"),
}
LIGHT_GROUND, DARK_GROUND = "#ffffff", "#16191d"


class Markup(str):
    """Text that is HTML already; all other text is escaped where it becomes part of a piece."""

    __slots__ = ()


def clean(label: str, *, max_characters: int = _MAX_CHARACTERS) -> str:
    """Give a label on one line, with what cannot be seen, or not be written as UTF-8, as escapes."""
    if len(label) > max_characters:
        half = max_characters // 2
        label = f"{label[:half]}…{label[-half:]}"
    return _UNSEEN.sub(_as_escape, _writable(label))


def clean_lines(text: str) -> str:
    """Give text of several lines, with what cannot be seen as escapes; of a very long one beginning and end."""
    if len(text) > _MAX_FOLDED:
        half = _MAX_FOLDED // 2
        text = f"{text[:half]}\n…\n{text[-half:]}"
    return _UNSEEN_IN_LINES.sub(_as_escape, _writable(text))


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _as_escape(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


# Pieces


def said(text: str, tone: Tone | None = None, *, kind: str = "") -> Markup:
    """Give a word or a few, in a tone; `kind` is `path`, `role` or another of the style's."""
    kinds = " ".join(name for name in ("" if tone is None else tone.value, kind) if name)
    if isinstance(text, Markup) and not kinds:
        return text
    inner = text if isinstance(text, Markup) else html.escape(clean(text))
    return Markup(f'<span class="{kinds}">{inner}</span>' if kinds else inner)


def beside(*parts: str) -> Markup:
    """Give parts on one line, a space between."""
    return Markup(" ".join(said(part) for part in parts if part))


def lines(parts: Iterable[str]) -> Markup:
    """Give parts one below the other."""
    return Markup("".join(f"<div>{said(part)}</div>" for part in parts))


def titled(text: str) -> Markup:
    """Give a title."""
    return Markup(f'<p class="title">{said(text)}</p>')


def facts(rows: Iterable[tuple[str, str]]) -> Markup:
    """Give names and what is said of each; nothing, if there are none."""
    told = [f"<tr><th>{said(name)}</th><td>{said(fact)}</td></tr>" for name, fact in rows]
    return Markup(f'<table class="facts">{"".join(told)}</table>') if told else Markup()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Give a table; what is wide scrolls."""
    cells = [[f"<th>{said(cell)}</th>" for cell in head]]
    cells += [[f"<td>{said(cell)}</td>" for cell in row] for row in rows]
    told = "\n".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return Markup(f'<div class="wide"><table class="rows">{told}</table></div>')


def folded(title: str, text: str) -> Markup:
    """Give text of several lines that is unfolded by its title; of a very long one beginning and end."""
    return Markup(f"<details><summary>{said(title)}</summary><pre>{html.escape(clean_lines(text))}</pre></details>")


def card(*parts: str) -> str:
    """Give pieces as one, with the style: what a notebook shows."""
    return "\n".join([f'<div class="superluigi">\n<style>{_style()}</style>', *filter(None, parts), "</div>\n"])


def duration(seconds: float | None) -> str:
    """Give a duration for a reader, such as `0.35 s`, `2 min 05 s` and `3 h 07 min`; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def size(size_bytes: int | None) -> str:
    """Give a size as people read it; nothing if it is not known."""
    if size_bytes is None:
        return ""
    number, units = float(size_bytes), ["B", "kB", "MB", "GB"]
    while number >= 1000 and len(units) > 1:
        number /= 1000
        del units[0]
    return f"{number:.0f} {units[0]}" if units[0] == "B" else f"{number:.1f} {units[0]}"


# The style

_OWN = ".superluigi"
# A notebook may be of another ground than the system: JupyterLab and Notebook, VS Code, Colab, and what Sphinx makes.
_SAYS_LIGHT = (
    '[data-jp-theme-light="true"]',
    '[data-vscode-theme-kind$="light"]',
    'html[theme="light"]',
    '[data-theme="light"]',
)
_SAYS_DARK = (
    '[data-jp-theme-light="false"]',
    '[data-vscode-theme-kind="vscode-dark"]',
    '[data-vscode-theme-kind="vscode-high-contrast"]',
    'html[theme="dark"]',
    '[data-theme="dark"]',
)
_RULES = """
{own}{{background:var(--jp-layout-color0,var(--vscode-editor-background,var(--sl-ground)));color:var(--sl-ink);
font:13px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;padding:.5em .75em;border:1px solid var(--sl-line);
border-radius:6px;overflow-x:auto;max-width:100%;box-sizing:border-box;text-align:left}}
{own} .title{{margin:0 0 .25em;font-weight:600;font-size:14px}}
{own} p{{margin:.25em 0}}
{own} table{{border-collapse:collapse;border:0;margin:0;table-layout:auto;color:inherit;font:inherit}}
{own} .role{{font-style:italic;color:var(--sl-faint)}}
{own} .path,{own} pre,{own} table.rows,{own} [role=list]{{font-family:ui-monospace,Menlo,Consolas,monospace;
font-size:12px}}
{own} .path{{overflow-wrap:anywhere;white-space:pre-wrap}}
{own} a{{color:inherit}}
{own} [role=list]>div{{overflow-wrap:anywhere;box-sizing:content-box;min-width:30em;margin-left:1.5em;
text-indent:-1.5em}}
{own} .wide{{overflow-x:auto;margin:.25em 0}}
{own}{own} tr:nth-child(n){{background:none;border:0}}
{own}{own} th,{own}{own} td{{text-align:left;vertical-align:top;border:0;background:none;color:inherit;
padding:.1em 1.2em .1em 0;max-width:none;line-height:inherit}}
{own}{own} .facts>tbody>tr>th{{font-weight:normal;color:var(--sl-faint);white-space:nowrap;
min-width:6.5em}}
{own}{own} .facts>tbody>tr>td{{white-space:normal}}
{own}{own} .rows th{{font-weight:600;border-bottom:1px solid var(--sl-line);white-space:nowrap}}
{own}{own} .rows td{{border-bottom:1px solid var(--sl-line);white-space:pre-wrap;font-variant-numeric:tabular-nums}}
{own} details{{margin:.25em 0}}
{own} summary{{cursor:pointer;color:var(--sl-faint)}}
{own}{own} pre{{background:none;color:inherit;margin:.25em 0;padding:0;border:0;max-height:24em;overflow:auto;
line-height:1.45;white-space:pre}}
"""


def _style() -> str:
    """Give the rules: the ground is painted too, as it may be that nobody says which the notebook has."""
    light = _variables(LIGHT_GROUND, "#1f2328", "#d0d7de", 3)
    dark = _variables(DARK_GROUND, "#e6edf3", "#3d444d", 4)
    tones = "".join(f"{_OWN} .{tone.value}{{color:var(--sl-{tone.value})}}" for tone in COLOURS)
    return (
        f"{_OWN}{{{light}}}"
        f"@media (prefers-color-scheme:dark){{{_OWN}{{{dark}}}}}"
        f"{_under(_SAYS_LIGHT)}{{{light}}}{_under(_SAYS_DARK)}{{{dark}}}"
        f"{_RULES.format(own=_OWN)}{tones}"
    ).replace("\n", "")


def _variables(ground: str, ink: str, line: str, column: int) -> str:
    tones = "".join(f"--sl-{tone.value}:{colours[column]};" for tone, colours in COLOURS.items())
    return f"--sl-ground:{ground};--sl-ink:{ink};--sl-line:{line};{tones}"


def _under(hosts: Iterable[str]) -> str:
    return ",".join(f"{host} {_OWN}" for host in hosts)
