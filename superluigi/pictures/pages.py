"""Pages that stand alone: one file of HTML with its scripts, styles and data inside, which loads nothing.

The libraries that draw lie beside this module in `assets`, each with its licence. The invariant: data become part of
a page as JSON that no content can leave, and the page itself is forbidden to ask the network for anything.
"""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from superluigi.markup import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

# Nothing from elsewhere, not even for what a library would load by itself: https://www.w3.org/TR/CSP3/.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
# What would end the script that the data stand in, and what JavaScript takes for the end of a line.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def asset(name: str) -> str:
    """Give the text of a file of `assets`."""
    return resources.files("superluigi.pictures").joinpath("assets", name).read_text(encoding="utf-8")


def page(title: str, *, body: str, data: Any, styles: Iterable[str] = (), scripts: Iterable[str] = ()) -> str:
    """Give a page; its scripts find `data`, which JSON can hold, as the constant `DATA`, and run in their order."""
    told = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    told = told.encode("utf-8", "backslashreplace").decode()
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{html.escape(clean(title))}</title>",
            *(f"<style>{style}</style>" for style in styles),
            "</head>",
            "<body>",
            body,
            f"<script>const DATA = {told};</script>",
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>\n",
        ]
    )
