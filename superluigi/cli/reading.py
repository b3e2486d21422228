"""Which tasks a file defines and which parameters they have, read from its source: nothing is imported or run.

For completion and for hints, where the user's code must not run because somebody pressed a key. It knows less than an
import does: what is made by functions, or by other means than class statements, is not seen.
"""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from pathlib import Path

_TASK_BASES = ("Task", "WithMetadata", "WithCleanup", "External")
_TASK_METHODS = frozenset({"run", "output", "requires"})
_OWN_PACKAGES = ("luigi", "superluigi")
_MAX_BYTES = 2_000_000
_MAX_FILES = 100  # that are read for one answer


@dataclass(frozen=True, slots=True)
class ReadTask:
    """A task as its source tells of it; `parameters` maps each name to its class, those of the bases first."""

    name: str
    parameters: dict[str, str]


def tasks_in(file: Path) -> dict[str, ReadTask]:
    """Give the tasks that a file defines, by name; none if it cannot be read. Reads what it imports from, each once."""
    return _tasks_in(file.absolute(), {})


def _tasks_in(file: Path, read: dict[Path, dict[str, ReadTask]]) -> dict[str, ReadTask]:
    if file in read or len(read) >= _MAX_FILES:
        return read.get(file, {})
    found = read[file] = {}  # before it is filled: files may import from each other
    try:
        tree = ast.parse(file.read_bytes()) if file.stat().st_size <= _MAX_BYTES else ast.Module([], [])
    except (OSError, SyntaxError, ValueError, RecursionError):
        return found
    known = _imported(tree, file, read)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            inherited = [known[base] for base in bases if base in known]
            own = _parameters(node)
            methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
            is_task = inherited or any(base.endswith(_TASK_BASES) for base in bases)
            if is_task or (bases and (own or methods & _TASK_METHODS)):
                parameters: dict[str, str] = {}
                for base in reversed(inherited):
                    parameters |= base.parameters
                found[node.name] = known[node.name] = ReadTask(node.name, parameters | own)
    return found


def _parameters(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for item in node.body:
        target: ast.expr | None = None
        if isinstance(item, ast.Assign) and len(item.targets) == 1:
            target = item.targets[0]
        elif isinstance(item, ast.AnnAssign):
            target = item.target
        value = getattr(item, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Call):
            kind = ast.unparse(value.func).rpartition(".")[2]
            if kind.endswith("Parameter"):
                found[target.id] = kind
    return found


def _imported(tree: ast.Module, file: Path, read: dict[Path, dict[str, ReadTask]]) -> dict[str, ReadTask]:
    """Give the tasks that a file imports from files of the user's."""
    found: dict[str, ReadTask] = {}
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or not node.module or node.module.split(".")[0] in _OWN_PACKAGES:
            continue
        places = None
        if node.level:
            places = [file.parents[min(node.level, len(file.parents)) - 1]]
        source = file_of(node.module, places)
        tasks = {} if source is None else _tasks_in(source, read)
        found |= {alias.asname or alias.name: tasks[alias.name] for alias in node.names if alias.name in tasks}
    return found


def places_of_modules() -> list[str]:
    """Give the folders in which the user's own modules are looked for: the current one, and PYTHONPATH."""
    return [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def file_of(module: str, places: list[Path] | None = None) -> Path | None:
    """Give the file of one of the user's modules, None if it is none of theirs."""
    for place in places if places is not None else map(Path, places_of_modules()):
        stem = place.joinpath(*module.split("."))
        for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
            if file.is_file():
                return file.absolute()
    return None


def task_named(name: str, module: str | None = None) -> ReadTask | None:
    """Give what is read of a task that is named as on the command line."""
    place, separator, task = name.rpartition(":" if ".py:" in name else ".")
    if module is not None or not separator:
        place, task = module or "", name
    file = Path(place).expanduser() if place.endswith(".py") else file_of(place) if place else None
    return None if file is None else tasks_in(file).get(task)
