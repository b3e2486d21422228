"""The code of a task: a fingerprint of its class, and of the user's own functions, classes and constants it reaches.

Two sources with one syntax tree are the same code, whatever their comments, docstrings and layout. The invariant: what
belongs to the user's own code (`origins`) is followed, and nothing else, so that the fingerprint is the same on every
machine, in every version of Python, and however the program was started; the walk is iterative and looks at everything
once.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import linecache
import os
import sys
import textwrap
import threading
import time
import types
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import luigi

from superluigi import loaded
from superluigi.forks import open_in_forks
from superluigi.origins import Own
from superluigi.syntax import assigned, assigned_by, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from superluigi.syntax import Assigned

_Parsed = TypeVar("_Parsed")

_PARSE_TRIES = 10
_IMPORT_NS = 60 * 10**9  # what a module may take from the reading of its source to a class in it: it imports others
_HOLDERS = ("__wrapped__", "func", "__func__", "fget")
DYNAMIC = "<dynamic-code>"  # the file that cloudpickle names from 3.1.3 on; before that, the file of the source
_parsing = open_in_forks(threading.Lock())
# The file, or cell of a notebook, and the line at which classes of tasks were defined.
_noted: weakref.WeakKeyDictionary[type, tuple[str, int]] = weakref.WeakKeyDictionary()
_defined_ns: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()  # when, by the clock of file systems


def note_definition(task_cls: type) -> None:
    """Remember where and when a class is defined: at the caller's caller.

    `inspect` finds a class by the file of its module, and a notebook has none.
    """
    frame = sys._getframe(2)  # noqa: SLF001  (`inspect.currentframe` and `f_back` are the same in more steps)
    _noted[task_cls] = frame.f_code.co_filename, frame.f_lineno
    _defined_ns[task_cls] = time.time_ns()


def code_fingerprint(task_cls: type) -> str | None:
    """Give a digest of the code of a class, of its base classes and of the functions and classes that they name.

    Followed is what is defined in the same top-level package (or module, notebook or script) and in the modules beside
    it, but no other tasks: the data that they give are compared. Of what modules assign, literals count. None if the
    source of the class is gone, or if the class has travelled here by value, so that not all of its source came along;
    what else it reaches without a source counts by its name. Names that are found out while it runs (getattr,
    dictionaries of functions, instances) are not followed, nor what is computed. Costs milliseconds for a class.

    The code is that which is loaded: of what has become other code in its file since the class was defined, what it
    compiles to counts, which is like no source.
    """
    lines: set[str] = set()  # what a program has twice, as itself and imported, is the same code
    seen: set[int] = set()
    own = Own(task_cls.__module__)
    since_ns = _defined_ns[task_cls] - _IMPORT_NS if task_cls in _defined_ns else None
    pending: list[Any] = [task_cls]
    while pending:
        reached = pending.pop()
        if id(reached) in seen:
            continue
        seen.add(id(reached))
        if _has_travelled(reached):
            return None
        tree, text = _loaded(reached, since_ns)
        if tree is None and not text and reached is task_cls:
            return None
        names = {} if tree is None else _names_in(tree)
        constants = [f"; {name} = {value}" for name, value in _constants_of(reached, names.items(), own, since_ns)]
        lines.add(f"{reached.__qualname__}: {text}{''.join(constants)}")
        named = _resolved(names.values(), reached, own)
        found = [*(item for item in named if not _is_task(item)), *(getattr(reached, "__bases__", ()))]
        pending += [item for item in map(_plain, found) if _is_own(item, own)]
    text = "\n".join(sorted(lines))  # without the modules: a function that moves is the same code
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _has_travelled(item: Any) -> bool:
    """Say whether a function, or a class with its methods, was pickled by value, which leaves the source behind."""
    members = vars(item).values() if isinstance(item, type) else (item,)
    functions = [member for member in map(_plain, members) if isinstance(member, types.FunctionType)]
    return any(function.__code__.co_filename == DYNAMIC for function in functions)


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
    """Give what a decorator that keeps its function (`functools.wraps`, `cache`, `partial`), or a method, has in it.

    Objects that answer to every name, such as mocks and `sqlalchemy.func`, hold nothing by that.
    """
    seen: set[int] = set()
    while id(item) not in seen and not isinstance(item, type):
        seen.add(id(item))
        item = next((inner for name in _HOLDERS if callable(inner := _held(item, name))), item)
    return item


def _held(item: Any, name: str) -> Any:
    """Give an attribute that an object has without making it up; None if there is none."""
    return None if inspect.getattr_static(item, name, None) is None else _attribute(item, name)


def _attribute(item: Any, name: str) -> Any:
    """Give an attribute; None if there is none, or asking for it fails in whatever way."""
    try:
        return getattr(item, name, None)
    except Exception:  # noqa: BLE001  (what a module names may be anything)
        return None


def _is_own(item: Any, own: Own) -> bool:
    return isinstance(item, type | types.FunctionType) and own.holds(str(getattr(item, "__module__", "")))


def _names_in(tree: ast.Module) -> dict[str, tuple[str, ...]]:
    """Give the names in a source, in their order, with their parts: `clean`, `helpers.clean`, `pk.helpers.clean`."""
    found: dict[str, tuple[str, ...]] = {}
    for node in ast.walk(tree):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            names = (inner.id, *reversed(parts))
            found[".".join(names)] = names
    return dict(sorted(found.items()))


def _resolved(names: Iterable[tuple[str, ...]], owner: Any, own: Own) -> Iterator[Any]:
    """Give what names stand for, where that can be told."""
    known = _globals_of(owner)
    for first, *rest in names:
        item = known.get(first)
        for name in rest:
            is_holder = own.holds(item.__name__) if isinstance(item, types.ModuleType) else isinstance(item, type)
            item = _attribute(item, name) if is_holder else None
        yield item


def _constants_of(
    owner: Any, names: Iterable[tuple[str, tuple[str, ...]]], own: Own, since_ns: int | None
) -> Iterator[tuple[str, str]]:
    """Give the names that stand for a literal at the top level of a module of the user's own, or of the same cell."""
    known = _globals_of(owner)
    files: list[str] | None = None
    for written, (first, *rest) in names:
        item = known.get(first)
        if first not in known or (isinstance(item, type | types.FunctionType) and not rest):
            continue
        for name in rest[:-1]:
            item = _attribute(item, name) if isinstance(item, types.ModuleType) else None
        if isinstance(item, types.ModuleType) and rest:
            found = _literal_in(item.__name__, rest[-1], own)
        elif rest and isinstance(item, type) and _is_task(item):  # which is not followed itself, unlike other classes
            found = _literal_of_class(item, rest[-1], own)
        elif rest:
            continue  # an attribute of a value
        else:
            files = files if files is not None else list(_files_of(owner))
            literals = (_literal(file, owner.__module__, first, own) for file in files)
            found = next((literal for literal in literals if literal is not None), None)
        if found is not None:
            yield written, found.text_of(_attribute(item, rest[-1]) if rest else item, since_ns)


class _Literal(NamedTuple):
    """A literal in a source: its text, and where it is assigned, in a module or a class."""

    text: str
    name: str
    file: str
    cls: type | None = None

    def text_of(self, value: Any, since_ns: int | None) -> str:
        """Give the text, or, if that has become another one since, the value that was loaded."""
        if since_ns is None or not loaded.was_edited(self.file, since_ns):
            return self.text
        tree = _parse(lambda: ast.parse(loaded.text_of(self.file))) if self.cls is None else _tree_of(self.cls)
        statements = tree.body if tree is not None else []
        if self.cls is not None and statements and isinstance(statements[0], ast.ClassDef):
            statements = statements[0].body
        return self.text if loaded.is_assigned(statements, self.name, value) else f"loaded {loaded.value_said(value)}"


def _literal_of_class(cls: type, name: str, own: Own) -> _Literal | None:
    holder = next((known for known in cls.__mro__ if name in vars(known)), None)
    tree = _tree_of(holder) if holder is not None and own.holds(holder.__module__) else None
    body = tree.body[0] if tree is not None else None
    text = assigned_by(body.body).get(name) if isinstance(body, ast.ClassDef) else None
    return _Literal(text, name, next(_files_of(holder), ""), holder) if isinstance(text, str) else None


def _literal_in(module: str, name: str, own: Own) -> _Literal | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return _literal(file, module, name, own) if file and own.holds(module) else None


def _literal(file: str, module: str, name: str, own: Own) -> _Literal | None:
    """Give the literal of a name, through the modules that it is imported from."""
    seen: set[tuple[str, str]] = set()
    pending = [(file, module, name)]
    while pending:
        file, module, name = pending.pop()
        if (module, name) in seen:
            continue
        seen.add((module, name))
        source = _assigned_in(file)
        stands_for = source.get(name)
        if isinstance(stands_for, str):
            return _Literal(stands_for, name, file)
        stars = [value for key, value in source.items() if key.startswith("*") and not isinstance(value, str)]
        for level, origin, there in stars if stands_for is None else [stands_for]:
            target = _absolute(module, level, origin)
            target_file = getattr(sys.modules.get(target), "__file__", None)
            if target_file and own.holds(target):
                pending.append((target_file, target, name if there == "*" else there))
    return None


def _absolute(module: str, level: int, name: str) -> str:
    package = getattr(sys.modules.get(module), "__package__", None)
    try:
        return importlib.util.resolve_name(f"{'.' * level}{name}", package)
    except ImportError:
        return ""


def _assigned_in(file: str) -> Assigned:
    return _parse(lambda: assigned(loaded.text_of(file))) or {}


def _files_of(owner: Any) -> Iterator[str]:
    """Give the files, or cells, in which a function or class may be defined, the likeliest first."""
    if isinstance(owner, types.FunctionType):
        yield owner.__code__.co_filename
        return
    yield str(getattr(sys.modules.get(owner.__module__), "__file__", None) or "")
    yield from (file for file, _ in _places_of(owner))


def _globals_of(owner: Any) -> dict[str, Any]:
    """Give what names stand for in a function, or in the methods of a class, with what surrounds these."""
    members = [owner] if isinstance(owner, types.FunctionType) else map(_plain, vars(owner).values())
    functions = [item for item in members if isinstance(item, types.FunctionType)]
    functions = [item for item in functions if item.__module__ == owner.__module__]
    if not functions:
        return dict(vars(inspect.getmodule(owner) or types.ModuleType("gone")))
    known = dict(functions[0].__globals__)
    for function in functions:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # nothing was assigned yet
                known[name] = cell.cell_contents
    return known


def _loaded(item: Any, since_ns: int | None) -> tuple[ast.Module | None, str]:
    """Give the syntax tree and the text of what is loaded; without a tree if its source is gone, or is another one."""
    file = next(_files_of(item), "")
    if since_ns is None or not loaded.was_edited(file, since_ns):
        tree = _tree_of(item)
        return tree, "" if tree is None else told(tree)
    methods = _methods_of(item, file) if isinstance(item, type) else []
    tree = _parse(lambda: _still_loaded(item, methods))
    return tree, loaded.said(item, methods) if tree is None else told(tree)


def _still_loaded(item: Any, methods: list[types.FunctionType]) -> ast.Module | None:
    """Give the tree of an item by the present source; None if that says something else than what is loaded."""
    if isinstance(item, type):
        classes = _classes_named(item.__qualname__, loaded.text_of(next(_files_of(item))))
        found = next((node for node in classes if loaded.is_as_written(item, node, methods)), None)
        return None if found is None else ast.Module(body=[found], type_ignores=[])
    code = loaded.present_code(item)
    tree = None if code is None else _parsed(code)
    return tree if tree is not None and loaded.has_defaults_of(item, tree.body[0]) else None


def _methods_of(cls: type, file: str) -> list[types.FunctionType]:
    """Give the functions that are written in a class, and not made for it, as by `dataclass`."""
    members = [item for item in map(_plain, vars(cls).values()) if isinstance(item, types.FunctionType)]
    written = [item for item in members if item.__qualname__.startswith(f"{cls.__qualname__}.")]
    return [item for item in written if os.path.realpath(item.__code__.co_filename) == os.path.realpath(file)]


def _tree_of(item: Any) -> ast.Module | None:
    """Give the syntax tree of a class or function; None if there is no source."""
    return _parse(lambda: _parsed(item))


def _parse(parse: Callable[[], _Parsed | None]) -> _Parsed | None:
    """Give what is parsed, or None; one thread at a time: others confuse the parser of Python to 3.12.

    It then raises SystemError: https://github.com/python/cpython/issues/106905. `inspect` parses, too.
    """
    with _parsing:
        for tries_left in reversed(range(_PARSE_TRIES)):
            try:
                return parse()
            except (OSError, TypeError, SyntaxError, ValueError):  # the latter of a source with zero bytes
                return None
            except SystemError:  # a thread of the user's parses
                if not tries_left:
                    raise
    return None


def _parsed(item: Any) -> ast.Module | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(item)))
    except (OSError, TypeError, SyntaxError):
        if not isinstance(item, type):
            code = getattr(item, "__code__", item)
            return _lambdas_at(code.co_filename, code.co_firstlineno)
        return next((tree for place in _places_of(item) if (tree := _class_at(item, *place)) is not None), None)


def _lambdas_at(file: str, line: int) -> ast.Module | None:
    """Give the lambdas of a line, which is no statement of its own where one is an argument of a call."""
    tree = ast.parse("".join(linecache.getlines(file)))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda) and node.lineno == line]
    return ast.Module(body=[ast.Expr(node) for node in found], type_ignores=[]) if found else None


def _places_of(cls: type) -> Iterator[tuple[str, int]]:
    """Give where a class may be defined that `inspect` does not find: a cell defines it, or its own methods."""
    if cls in _noted:
        yield _noted[cls]
    for member in map(_plain, vars(cls).values()):
        if isinstance(member, types.FunctionType) and member.__qualname__.startswith(f"{cls.__qualname__}."):
            yield member.__code__.co_filename, member.__code__.co_firstlineno


def _class_at(cls: type, file: str, line: int) -> ast.Module | None:
    """Give the class of that name around a line; IPython keeps every cell as a file of its own in `linecache`."""
    for node in _classes_named(cls.__qualname__, "".join(linecache.getlines(file))):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if first <= line <= (node.end_lineno or line):
            return ast.Module(body=[node], type_ignores=[])
    return None


def _classes_named(qualname: str, text: str) -> Iterator[ast.ClassDef]:
    pending: list[tuple[str, ast.AST]] = [("", ast.parse(text))]
    while pending:
        scope, node = pending.pop()
        name = f"{scope}{getattr(node, 'name', '')}"
        if isinstance(node, ast.ClassDef):
            if name == qualname:
                yield node
            scope = f"{name}."
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            scope = f"{name}.<locals>."
        pending += [(scope, child) for child in ast.iter_child_nodes(node)]
