"""Python's syntax as text: the same for every version of Python, and whatever the layout.

What is not syntax, such as what a name stands for, is not its business. The invariant: trees of the same code give the
same text, and others another one; all walks are iterative, so that no depth of a source is too much.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

# Fields that say how a thing was written, or what its place in the tree says already.
_LEFT_OUT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_LITERALS = (
    ast.Constant,
    ast.Tuple,
    ast.List,
    ast.Set,
    ast.Dict,
    ast.UnaryOp,
    ast.BinOp,
    ast.JoinedStr,
    ast.FormattedValue,
    ast.unaryop,
    ast.operator,
    ast.expr_context,
)

Imported: TypeAlias = tuple[int, str, str]
"""A name that another module gives: the dots before that module, its name, and the name there."""
Assigned: TypeAlias = Mapping[str, str | Imported]
"""What names stand for in a source: a literal, as text, or what is imported; `*` for each `from module import *`."""


def told(tree: ast.AST) -> str:
    """Give the names of nodes and their fields in order, without those that are empty, and without docstrings.

    `ast.dump` is another one in nearly every version of Python.
    """
    text: list[str] = []
    pending: list[Any] = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, _Said):
            text.append(item)
        elif isinstance(item, ast.Constant):
            text.append(f"{type(item.value).__name__}:{_value(item.value)}")
        elif isinstance(item, ast.AST):
            pending += reversed([_Said(f"{type(item).__name__}("), *_fields(item), _Said(")")])
        elif isinstance(item, list):
            inner = [part for element in item for part in (element, _Said(","))]
            pending += reversed([_Said("["), *inner, _Said("]")])
        else:
            text.append(_value(item))
    return "".join(text)


class _Said(str):
    """Text that goes into the result as it is."""

    __slots__ = ()


def _fields(node: ast.AST) -> list[Any]:
    found: list[Any] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "body" and isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = value if ast.get_docstring(node, clean=False) is None else node.body[1:] or [ast.Pass()]
        elif name == "values" and isinstance(node, ast.JoinedStr):
            value = _joined(node.values)
        # Versions add fields, such as `type_params`, which are empty in code that can do without.
        if name not in _LEFT_OUT and not (value is None or value == [] or (type(value) is int and value == 0)):
            found += [_Said(f"{name}="), value, _Said(";")]
    return found


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Give the pieces of an f-string, of which versions of Python split the text differently."""
    pieces: list[ast.expr] = []
    for value in values:
        former = pieces[-1] if pieces else None
        if isinstance(value, ast.Constant) and isinstance(former, ast.Constant):
            pieces[-1] = ast.Constant(f"{former.value}{value.value}")  # type: ignore[str-bytes-safe]
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            pieces.append(value)
    return pieces


def _value(value: object) -> str:
    """Give a value in ASCII, as versions know different characters; integers as hex, as decimals have a limit."""
    return hex(value) if type(value) is int else ascii(value)


def is_literal(tree: ast.AST) -> bool:
    """Say whether it is made of numbers, text, tuples, lists, sets and dictionaries alone: no name, no call."""
    return all(isinstance(node, _LITERALS) for node in ast.walk(tree))


@functools.lru_cache(maxsize=16)
def assigned(source: str) -> Assigned:
    """Give what the top level of a source assigns once and for all: literals, and what it imports from modules.

    Not what a condition or a loop assigns, nor what is changed later on.

    Raises:
        SyntaxError: it is no Python.
    """
    return assigned_by(ast.parse(source).body)


def assigned_by(statements: Iterable[ast.stmt]) -> Assigned:
    """Give what the statements of a module, or in the body of a class, assign; see `assigned`."""
    found: dict[str, str | Imported] = {}
    stars = 0
    for statement in statements:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                name = alias.asname or alias.name
                stars += name == "*"
                found[f"*{stars}" if name == "*" else name] = (statement.level, statement.module or "", alias.name)
            continue
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        text = told(value) if value is not None and is_literal(value) else None
        for name in _bound(statement):
            found.pop(name, None)
            if text is not None:
                found[name] = text
    return found


def _bound(statement: ast.stmt) -> set[str]:
    """Give the names that a statement may bind, with those of its own inner scopes: too many harm little."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {statement.name}
    if isinstance(statement, ast.AnnAssign) and statement.value is None:
        return set()
    nodes = list(ast.walk(statement))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    return names | {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
