"""Drawings on standard output or in a file: the formats of `visuals`, and those that Graphviz makes of one of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superluigi.cli.terminal import Answer, UsageError

if TYPE_CHECKING:
    import argparse

    from superluigi.cli.parsing import Parser

_FORMATS = {
    "text": (".txt",),
    "mermaid": (".mmd", ".mermaid"),
    "dot": (".dot", ".gv"),
    "html": (".html", ".htm"),
    "svg": (".svg",),
    "png": (".png",),
    "pdf": (".pdf",),
}
_BY_GRAPHVIZ = ("svg", "png", "pdf")


def add_options(parser: Parser, default: str) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of to standard output")
    parser.add_argument(
        "--format",
        choices=list(_FORMATS),
        help=f"by default what the name of the file says, else {default}; svg, png and pdf need Graphviz",
    )


def drawn(drawing: Any, options: argparse.Namespace, default: str) -> Answer:
    """Give a drawing in the format that was asked for, or write it to the file and give its path."""
    suffix = os.path.splitext(options.output or "")[1].lower()
    by_suffix = next((name for name, suffixes in _FORMATS.items() if suffix in suffixes), None)
    chosen = options.format or by_suffix
    if options.output and chosen is None:
        known = ", ".join(suffix for suffixes in _FORMATS.values() for suffix in suffixes)
        raise UsageError(f"{options.output} does not say which format. Say --format, or a name that ends in {known}.")
    chosen = chosen or default
    if chosen in _BY_GRAPHVIZ:
        if not options.output:
            raise UsageError(f"--format {chosen} needs a file: -o FILE.{chosen}.")
        data = _by_graphviz(drawing.to_dot(), chosen)
    else:
        text = getattr(drawing, f"to_{chosen}")()
        if not options.output:
            shown = (lambda colour: drawing.to_text(colour=colour)) if chosen == "text" else text.rstrip("\n")
            return Answer(shown, {"format": chosen, "text": text})
        data = f"{text.rstrip()}\n".encode("utf-8", "backslashreplace")
    path = Path(options.output)
    _write_atomically(path, data)
    return Answer(str(path), {"format": chosen, "path": str(path)})


def _by_graphviz(source: str, kind: str) -> bytes:
    import shutil
    import subprocess

    program = shutil.which("dot")
    if program is None:
        raise UsageError(
            f"{kind} is drawn by Graphviz, whose program dot is not on the PATH. Install it, or take html."
        )
    done = subprocess.run([program, f"-T{kind}"], input=source.encode(), capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        raise UsageError(f"Graphviz could not draw it: {done.stderr.decode(errors='replace').strip()}.")
    return done.stdout


def _write_atomically(path: Path, data: bytes) -> None:
    from superluigi.storage import files

    with files.translated("write", path):
        staged = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            staged.write_bytes(data)
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
