"""Completion in the shell: commands, options, tasks and their parameters.

What tasks there are is read from the sources, see `reading`: no code of the user's runs because a key was pressed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superluigi.cli import commands, parsing, reading

if TYPE_CHECKING:
    from collections.abc import Iterator


def complete() -> None:
    """Answer the shell that asks (it has set _ARGCOMPLETE), and end the process."""
    import argcomplete
    from argcomplete.lexers import split_line

    _, _, _, words, _ = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    start = int(os.environ["_ARGCOMPLETE"])  # the words before belong to `python -m superluigi`
    argcomplete.autocomplete(parser_for(words[start:]), always_complete_options=False)


def parser_for(words: list[str]) -> argparse.ArgumentParser:
    """Give one parser of everything that may stand behind these words."""
    top = argparse.ArgumentParser("superluigi", allow_abbrev=False)
    top.add_argument("--version", action="store_true")
    added: Any = top.add_subparsers(parser_class=parsing.Parser)
    for command in commands.COMMANDS.values():
        parser = added.add_parser(command.name, help=command.help)
        command.add_options(parser)
        if command.takes_task:
            _, name, after = parser.split(words[1:])
            parser.add_argument("task").completer = task_names
            if words and words[0] == command.name and name:
                if name.endswith(".py") and after and not after[0].startswith("-"):
                    name = f"{name}:{after[0]}"
                module = _module_in(after) or _module_in(words)
                task = reading.task_named(name, module)
                for parameter, kind in (task.parameters if task else {}).items():
                    is_flag = kind == "BoolParameter"
                    parser.add_argument(
                        f"--{parameter.replace('_', '-')}", action="store_true" if is_flag else "store", help=kind
                    )
        elif command.name == "history":
            for action in parser._actions:  # noqa: SLF001  (argcomplete asks for the attribute)
                if action.dest == "task":
                    action.completer = task_names
    return top


def _module_in(words: list[str]) -> str | None:
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--module":
            return following or None
        if word.startswith("--module="):
            return word.partition("=")[2]
    return None


def task_names(prefix: str, parsed_args: argparse.Namespace | None = None, **_: object) -> list[str]:
    """Give the names of tasks, modules and files that begin so."""
    module = getattr(parsed_args, "module", None)
    if module:
        file = Path(module) if module.endswith(".py") else reading.file_of(module)
        return [name for name in reading.tasks_in(file) if name.startswith(prefix)] if file else []
    path, colon, begun = prefix.rpartition(":")
    if colon:
        return [f"{path}:{name}" for name in reading.tasks_in(Path(path).expanduser()) if name.startswith(begun)]
    found = sorted({*_dotted(prefix), *_files(prefix)})
    return [name for name in found if name.startswith(prefix)]


def _files(prefix: str) -> Iterator[str]:
    if "/" in prefix or prefix.endswith(".py"):
        folder, _, _ = prefix.rpartition("/")
        for child in Path(folder or ".").expanduser().glob("*"):
            name = f"{folder}/{child.name}" if folder else child.name
            if child.is_dir() and not child.name.startswith("."):
                yield f"{name}/"
            elif child.suffix == ".py":
                yield from (f"{name}:{task}" for task in reading.tasks_in(child))


def _dotted(prefix: str) -> Iterator[str]:
    parent, dot, _ = prefix.rpartition(".")
    for place in reading.places_of_modules():
        folder = Path(place).joinpath(*parent.split(".")) if dot else Path(place)
        file = folder.with_name(f"{folder.name}.py") if dot else None
        for source in filter(None, [file, folder / "__init__.py" if dot else None]):
            yield from (f"{parent}.{task}" for task in reading.tasks_in(source))
        if not folder.is_dir():
            continue
        for child in folder.iterdir():
            before = f"{parent}." if dot else ""
            if (child / "__init__.py").is_file():
                yield f"{before}{child.name}."
            elif child.suffix == ".py" and child.stem.isidentifier() and child.stem != "__init__":
                yield from (f"{before}{child.stem}.{task}" for task in reading.tasks_in(child))
