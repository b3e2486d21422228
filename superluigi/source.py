"""The code of a task: a fingerprint of its class and of all functions and classes of the user's own that it reaches.

Two sources with one syntax tree are the same code, whatever their comments, docstrings and layout. The invariant: what
belongs to the user's own package, or to the same notebook or script, is followed, and nothing else; the walk is
iterative and looks at everything once.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sys
import textwrap
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

import luigi

from superluigi.forks import open_in_forks

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARSE_TRIES = 10
_DYNAMIC = "<dynamic-code>"  # the file that cloudpickle names from 3.1.3 on; before that, the file of the source
_parsing = open_in_forks(threading.Lock())
# The file, or cell of a notebook, and the line at which classes of tasks were defined.
_noted: weakref.WeakKeyDictionary[type, tuple[str, int]] = weakref.WeakKeyDictionary()


def note_definition(task_cls: type, depth: int = 2) -> None:
    """Remember where a class is defined: at the caller's caller, or so many frames out as `depth` says.

    `inspect` finds a class by the file of its module, and a notebook has none.
    """
    frame = sys._getframe(depth)  # noqa: SLF001  (`inspect.currentframe` and `f_back` are the same in more steps)
    _noted[task_cls] = frame.f_code.co_filename, frame.f_lineno


def code_fingerprint(task_cls: type) -> str | None:
    """Give a digest of the code of a class, of its base classes and of the functions and classes that they name.

    Followed is what is defined in the same top-level package (or module, notebook or script), but no other tasks: the
    data that they give are compared. None if the source of the class is gone, or if the class has travelled here by
    value, so that not all of its source came along; what else it reaches without a source counts by its name. Names
    that are found out while it runs (getattr, dictionaries of functions, instances) are not followed. Costs
    milliseconds for a class.
    """
    told: list[str] = []
    seen: set[int] = set()
    package = task_cls.__module__.partition(".")[0]
    pending: list[Any] = [task_cls]
    while pending:
        reached = pending.pop()
        if id(reached) in seen:
            continue
        seen.add(id(reached))
        if _has_travelled(reached):
            return None
        tree = _tree_of(reached)
        if tree is None and reached is task_cls:
            return None
        told.append(f"{reached.__qualname__}: {'' if tree is None else _told(tree)}")
        named = () if tree is None else _named_in(tree, reached)
        found = [*(item for item in named if not _is_task(item)), *(getattr(reached, "__bases__", ()))]
        pending += [item for item in map(_plain, found) if _is_of(item, package)]
    text = "\n".join(sorted(told))  # without the modules: a function that moves is the same code
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _has_travelled(item: Any) -> bool:
    """Say whether a function, or a class with its methods, was pickled by value, which leaves the source behind."""
    members = vars(item).values() if isinstance(item, type) else (item,)
    functions = [member for member in map(_plain, members) if isinstance(member, types.FunctionType)]
    return any(function.__code__.co_filename == _DYNAMIC for function in functions)


def source_of(task_cls: type) -> str | None:
    """Give the source of a class as it was written; None if it is gone."""
    if _has_travelled(task_cls):
        return None
    with _parsing:
        try:
            return textwrap.dedent(inspect.getsource(task_cls))
        except (OSError, TypeError, SyntaxError, SystemError):
            return None


def _is_task(item: Any) -> bool:
    """Say whether it is a class of tasks: what is required is named, but counts by its data and not by its code."""
    return isinstance(item, type) and issubclass(item, luigi.Task)


def _plain(item: Any) -> Any:
    """Give what a decorator that keeps its function (`functools.wraps`, `cache`, `partial`) has around it."""
    while True:
        inner = getattr(item, "__wrapped__", None) or getattr(item, "func", None)
        if not callable(inner) or isinstance(item, type):
            return item
        item = inner


def _is_of(item: Any, package: str) -> bool:
    is_code = isinstance(item, type | types.FunctionType)
    return is_code and str(getattr(item, "__module__", "")).partition(".")[0] == package


def _told(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        is_scope = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if is_scope and ast.get_docstring(node) is not None:  # type: ignore[arg-type]
            node.body = node.body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _named_in(tree: ast.Module, owner: Any) -> Iterator[Any]:
    """Give what the names in a source stand for, where that can be told: `clean(...)`, `helpers.clean(...)`."""
    known = _globals_of(owner)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in known:
            yield known[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            holder = known.get(node.value.id)
            if isinstance(holder, types.ModuleType | type):
                yield getattr(holder, node.attr, None)


def _globals_of(owner: Any) -> dict[str, Any]:
    function = next((item for item in map(_plain, vars(owner).values()) if isinstance(item, types.FunctionType)), None)
    function = owner if isinstance(owner, types.FunctionType) else function
    if function is None:
        return dict(vars(inspect.getmodule(owner) or types.ModuleType("gone")))
    closure = inspect.getclosurevars(function).nonlocals if function.__closure__ else {}
    return {**function.__globals__, **closure}


def _tree_of(item: Any) -> ast.Module | None:
    """Give the syntax tree of a class or function; one thread at a time: others confuse the parser of Python to 3.12.

    It then raises SystemError: https://github.com/python/cpython/issues/106905. `inspect` parses, too.
    """
    with _parsing:
        for tries_left in reversed(range(_PARSE_TRIES)):
            try:
                return _parsed(item)
            except (OSError, TypeError, SyntaxError):
                return None
            except SystemError:  # a thread of the user's parses
                if not tries_left:
                    raise
    return None


def _parsed(item: Any) -> ast.Module | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(item)))
    except (OSError, TypeError):
        if not isinstance(item, type):
            raise
        return next((tree for place in _places_of(item) if (tree := _class_at(item, *place)) is not None), None)


def _places_of(cls: type) -> Iterator[tuple[str, int]]:
    """Give where a class may be defined that `inspect` does not find: a cell defines it, or its own methods."""
    if cls in _noted:
        yield _noted[cls]
    for member in map(_plain, vars(cls).values()):
        if isinstance(member, types.FunctionType) and member.__qualname__.startswith(f"{cls.__qualname__}."):
            yield member.__code__.co_filename, member.__code__.co_firstlineno


def _class_at(cls: type, file: str, line: int) -> ast.Module | None:
    """Give the class of that name around a line; IPython keeps every cell as a file of its own in `linecache`."""
    pending: list[tuple[str, ast.AST]] = [("", ast.parse("".join(linecache.getlines(file))))]
    while pending:
        scope, node = pending.pop()
        name = f"{scope}{getattr(node, 'name', '')}"
        if isinstance(node, ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if name == cls.__qualname__ and first <= line <= (node.end_lineno or line):
                return ast.Module(body=[node], type_ignores=[])
            scope = f"{name}."
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            scope = f"{name}.<locals>."
        pending += [(scope, child) for child in ast.iter_child_nodes(node)]
    return None
