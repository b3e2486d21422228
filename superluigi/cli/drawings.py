"""Drawings on standard output or in a file: the forms of `pictures.drawings`, by the name of the file or an option."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from superluigi.cli.terminal import Answer, UsageError
from superluigi.pictures.drawings import BY_GRAPHVIZ, FORMS, form_of

if TYPE_CHECKING:
    import argparse

    from superluigi.cli.parsing import Parser
    from superluigi.pictures.drawings import Drawing


def add_options(parser: Parser, default: str) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of to standard output")
    parser.add_argument(
        "--format",
        choices=list(FORMS),
        help=f"by default what the name of the file says, else {default}; svg, png and pdf need Graphviz, which comes "
        "with superluigi[visuals]",
    )


def drawn(drawing: Drawing, options: argparse.Namespace, default: str) -> Answer:
    """Give a drawing in the format that was asked for, or write it to the file and give its path."""
    if options.output:
        form = options.format or form_of(Path(options.output))
        path = str(drawing.save(options.output, form=form))
        return Answer(path, {"format": form, "path": path})
    form = options.format or default
    if form in BY_GRAPHVIZ:
        raise UsageError(f"--format {form} needs a file: -o FILE.{form}.")
    text = drawing.drawn(form).decode()
    shown = (lambda colour: drawing.to_text(colour=colour)) if form == "text" else text.rstrip("\n")
    return Answer(shown, {"format": form, "text": text})
