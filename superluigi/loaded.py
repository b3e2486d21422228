"""Whether what a process has loaded is still what its file says: somebody may edit that while a run is under way.

Functions are compared with what the present source compiles to, and literals by their values. The invariant: nothing
is imported or run again; what cannot be compared, such as the arguments of a decorator, is taken to be as it was.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import linecache
import os
import sys
import types
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from superluigi.syntax import is_literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_HAS_DOCSTRING = 0x4000000  # from Python 3.14 on; before that, what has none begins with None in its place
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_DATA = (*_PLAIN, list, tuple, set, frozenset, dict)


def was_edited(file: str, since_ns: int) -> bool:
    """Say whether a file was written after that time, by its modification time; of what is no file, no."""
    try:
        return os.stat(file).st_mtime_ns > since_ns
    except OSError:
        return False


def present_code(function: types.FunctionType) -> types.CodeType | None:
    """Give the code that the file of a function holds for it now; None if it is other code.

    Raises:
        SyntaxError: the file is no Python by now.
    """
    loaded, file = function.__code__, function.__code__.co_filename
    text = _said(loaded)
    same = [code for code in _compiled(text_of(file), file).get(function.__qualname__, ()) if _said(code) == text]
    return min(same, key=lambda code: abs(code.co_firstlineno - loaded.co_firstlineno), default=None)


def has_defaults_of(function: types.FunctionType, node: ast.AST) -> bool:
    """Say whether the literals among the defaults in a source are those of the function."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    pairs = list(zip(node.args.defaults, function.__defaults__ or (), strict=False))
    by_name = function.__kwdefaults__ or {}
    pairs += [
        (default, by_name.get(given.arg))
        for given, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if default is not None
    ]
    return len(node.args.defaults) == len(function.__defaults__ or ()) and all(
        _is_value_of(written, value) for written, value in pairs
    )


def is_as_written(cls: type, node: ast.ClassDef, methods: Collection[types.FunctionType]) -> bool:
    """Say whether a class is what its source says: its methods, the names in it, and the literals that it assigns."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            named = [method for method in methods if method.__name__ == statement.name]
            if _mangled(statement.name, cls) not in vars(cls):
                return False
            if named and not any(has_defaults_of(method, statement) for method in named):
                return False
        elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for name in [target.id for target in targets if isinstance(target, ast.Name)]:
                if name.startswith("__") and name.endswith("__"):  # such as a version, which is no code
                    continue
                if _mangled(name, cls) not in vars(cls):
                    return False
                value = vars(cls)[_mangled(name, cls)]
                if type(value) in _DATA and not _is_value_of(statement.value, value):  # and no member, or slot
                    return False
    with contextlib.suppress(SyntaxError):
        return all(present_code(method) is not None for method in methods)
    return False


def is_assigned(statements: Iterable[ast.stmt], name: str, value: Any) -> bool:
    """Say whether statements give a name the value that was loaded, as far as it is a literal."""
    found: ast.expr | None = None
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            found = getattr(statement, "value", None)
    return found is None or _is_value_of(found, value)


def said(item: Any, methods: Iterable[types.FunctionType] = ()) -> str:
    """Give a function or class as it was loaded, for want of its source; another text in each version of Python."""
    if isinstance(item, types.FunctionType):
        defaults = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).items()]
        return f"loaded {_said(item.__code__)} {value_said(defaults)}"
    values = {name: value for name, value in vars(item).items() if isinstance(value, _PLAIN) and name[:2] != "__"}
    return f"loaded {value_said(values)} {' '.join(map(said, methods))}"


def value_said(value: Any) -> str:
    """Give a value as text, the same in every process; of one that is no data its type alone."""
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(value_said, value))})"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({', '.join(sorted(map(value_said, value)))})"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{value_said(key)}: {value_said(item)}' for key, item in value.items())})"
    if isinstance(value, types.CodeType):
        return _said(value)
    return f"{type(value).__name__}:{ascii(value) if isinstance(value, _PLAIN) else ''}"


def _mangled(name: str, cls: type) -> str:
    is_private = name.startswith("__") and not name.endswith("__")
    return f"_{cls.__name__.lstrip('_')}{name}" if is_private else name


def _is_value_of(written: ast.expr, value: Any) -> bool:
    if not is_literal(written):
        return True
    expression = ast.fix_missing_locations(ast.Expression(written))
    try:
        return value_said(eval(compile(expression, "<literal>", "eval"), {})) == value_said(value)  # noqa: S307  (data)
    except (ArithmeticError, TypeError, ValueError, SyntaxError):
        return False


def _said(code: types.CodeType) -> str:
    """Give code as text, without lines and docstrings."""
    consts = list(code.co_consts)
    has_docstring = bool(code.co_flags & _HAS_DOCSTRING) or (
        sys.version_info < (3, 14) and code.co_name != "<lambda>" and bool(consts) and isinstance(consts[0], str)
    )
    if has_docstring:
        consts[0] = None
    if not code.co_flags & inspect.CO_OPTIMIZED:  # a class, which is told its line from Python 3.13 on
        consts = [None if type(const) is int and const == code.co_firstlineno else const for const in consts]
    facts = [code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    return f"({facts} {names} {code.co_code.hex()} {value_said(consts)})"


def text_of(file: str) -> str:
    """Give the present source in a file, or in a cell of a notebook."""
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


@functools.lru_cache(maxsize=16)
def _compiled(text: str, file: str) -> Mapping[str, list[types.CodeType]]:
    """Give the code of all functions and classes of a source by their qualified names."""
    found: defaultdict[str, list[types.CodeType]] = defaultdict(list)
    pending = [("", compile(text, file, "exec", dont_inherit=True))]
    while pending:
        scope, outer = pending.pop()
        for code in outer.co_consts:
            if isinstance(code, types.CodeType):
                if code.co_name.startswith("<generic parameters"):  # which qualified names leave out
                    pending.append((scope, code))
                    continue
                name = f"{scope}{code.co_name}"
                found[name].append(code)
                is_function = bool(code.co_flags & inspect.CO_OPTIMIZED)
                pending.append((f"{name}.<locals>." if is_function else f"{name}.", code))
    return found
