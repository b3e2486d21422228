"""What everything that can be drawn has in common: its forms, and the file that it is written to.

Text, Mermaid and DOT are written by `visuals`. SVG, PNG and PDF are drawn by Graphviz: by the program `dot` where that
is on the PATH, else by the Graphviz that pygraphviz brings along. The invariant: a file changes in one step, and its
name says its form.
"""

from __future__ import annotations

import abc
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superluigi import markup, visuals
from superluigi.errors import ConfigError, MissingExtraError
from superluigi.pictures.groups import collapsed

if TYPE_CHECKING:
    from superluigi.visuals import Graph

FORMS = {
    "text": (".txt",),
    "mermaid": (".mmd", ".mermaid"),
    "dot": (".dot", ".gv"),
    "html": (".html", ".htm"),
    "json": (".json",),
    "svg": (".svg",),
    "png": (".png",),
    "pdf": (".pdf",),
}
BY_GRAPHVIZ = ("svg", "png", "pdf")
_MAX_LAID_OUT = 300  # nodes; of more, those of one group are drawn as one
_MAX_WORDS = 60  # characters of a line in a picture
_MANY = 150  # boxes; of more Graphviz places each as well as it can be done in a moment, not as well as it can be done
_IN_A_MOMENT = ("-Gnslimit=0.1", "-Gnslimit1=0.1", "-Gmclimit=0.01", "-Gsplines=line")
_TIMEOUT_S = 120

# In a process of its own: drawing cannot be interrupted, and fonts that are missing are complained about on stderr.
_BY_PYGRAPHVIZ = (
    "import sys, pygraphviz; graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode()); "
    "sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog='dot', args=' '.join(sys.argv[2:])))"
)


class Drawing(abc.ABC):
    """A graph that was asked for, in all its forms."""

    __slots__ = ()

    @abc.abstractmethod
    def _graph(self) -> Graph:
        """Give what is drawn."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Give it as dicts, lists and text."""

    def __str__(self) -> str:
        """Give the tree."""
        return self.to_text()

    def _repr_html_(self) -> str:
        return visuals.fragment(self._graph())

    def to_text(self, *, colour: bool = False) -> str:
        """Give a tree, what is upstream indented below; `colour` adds the codes of a terminal.

        What is upstream of several is shown once and referred to after.
        """
        return visuals.text(self._graph(), colour=colour)

    def to_mermaid(self) -> str:
        """Give a Mermaid flowchart; Mermaid draws 500 arrows unless its `maxEdges` is set."""
        return visuals.mermaid(self._graph())

    def to_dot(self) -> str:
        """Give it in the language of Graphviz."""
        return visuals.dot(self._graph())

    def to_html(self) -> str:
        """Give a page of its own, which loads nothing and has no scripts."""
        return visuals.page(self._graph())

    def to_json(self) -> str:
        """Give what `to_dict` gives as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_svg(self) -> str:
        """Give a picture, drawn by Graphviz. Of more than 300 nodes those of one family are drawn as one.

        Raises:
            MissingExtraError: there is no Graphviz.
        """
        return self._by_graphviz("svg").decode()

    def to_png(self) -> bytes:
        """Give a picture, drawn as for `to_svg`."""
        return self._by_graphviz("png")

    def to_pdf(self) -> bytes:
        """Give a picture, drawn as for `to_svg`."""
        return self._by_graphviz("pdf")

    def save(self, path: str | Path, *, form: str | None = None) -> Path:
        """Write it to a file in one step, in the form that the name says: .html, .svg, .png, .pdf, .mmd, .dot, ...

        Its folder is made if it is not there. `form` says the form where the name does not: text, mermaid, dot, html,
        json, svg, png or pdf.

        Raises:
            ConfigError: neither says it.
            MissingExtraError: svg, png or pdf is asked for, and there is no Graphviz.
            StorageError: it cannot be written there; what was there before is still there.
        """
        from superluigi.storage import files

        path = Path(path)
        data = self.drawn(form or form_of(path))
        with files.translated("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(path, data)
        return path

    def drawn(self, form: str) -> bytes:
        """Give the bytes of a file in one of the forms."""
        if form not in FORMS:
            message = f"{form!r} is no form of a drawing. Give one of {', '.join(FORMS)}."
            raise ConfigError(message)
        given: str | bytes = getattr(self, f"to_{form}")()
        return given if isinstance(given, bytes) else f"{given.rstrip()}\n".encode("utf-8", "backslashreplace")

    def _by_graphviz(self, form: str) -> bytes:
        graph = self._graph()
        if len(graph.nodes) > _MAX_LAID_OUT:
            graph = collapsed(graph)
        nodes = tuple(replace(node, label=_short(node.label), detail=_short(node.detail)) for node in graph.nodes)
        return by_graphviz(visuals.dot(replace(graph, nodes=nodes)), form, is_large=len(nodes) > _MANY)


def _short(words: str) -> str:
    return markup.clean(words, max_characters=_MAX_WORDS)


def form_of(path: Path) -> str:
    """Give the form that the name of a file says.

    Raises:
        ConfigError: it says none.
    """
    suffix = path.suffix.lower()
    for form, suffixes in FORMS.items():
        if suffix in suffixes:
            return form
    known = ", ".join(suffix for suffixes in FORMS.values() for suffix in suffixes)
    message = f"{path} does not say which format. Say the format, or give a name that ends in {known}."
    raise ConfigError(message)


def by_graphviz(source: str, form: str, *, is_large: bool = False) -> bytes:
    """Give a picture of what is written in Graphviz' language; of one that `is_large` quickly rather than well.

    Raises:
        MissingExtraError: there is neither the program dot on the PATH nor pygraphviz.
        ConfigError: Graphviz cannot draw it, or not within two minutes.
    """
    import importlib.util
    import shutil
    import subprocess
    import sys

    program = shutil.which("dot")
    if program is None and importlib.util.find_spec("pygraphviz") is None:
        raise MissingExtraError("visuals", "pygraphviz")
    command = [sys.executable, "-c", _BY_PYGRAPHVIZ, form] if program is None else [program, f"-T{form}"]
    command += _IN_A_MOMENT if is_large else ()
    try:
        done = subprocess.run(  # noqa: S603  (a program that is named here)
            command, input=source.encode(), capture_output=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        message = f"Graphviz has not drawn it within {_TIMEOUT_S} s, as it is too large for a picture. Take html."
        raise ConfigError(message) from None
    if done.returncode:
        message = f"Graphviz could not draw it: {done.stderr.decode(errors='replace').strip()[-2000:]}."
        raise ConfigError(message)
    return done.stdout
