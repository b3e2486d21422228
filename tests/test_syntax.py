"""Syntax as text: the same in every version of Python, and for every layout."""

import ast
import hashlib

import pytest

from superluigi.syntax import assigned, told

CODE = '''
@register(name="x")
class Cleaned(Base, metaclass=Meta):
    """A docstring."""
    limit: int = 0x10
    big = 1_000_000_000_000_000_000_000
    text = u"text" "\\u20ac\\U0001fae9"[1:, ...], b"x"
    async def run(self, path, /, *more, key=None, **rest) -> "str":
        """Another docstring."""
        async with opened(path) as file, lock:
            return f"{path!r:>{self.limit}} and" f" {key=:.2f}{''}" f""
    def other(self):
        "Only this."
    def decided(self, value):
        match value:
            case {"a": [1, *others], **rest} | None if rest:
                return -1.5e300 + 2j
            case Point(x=0):
                global total
                total += 1
        return [x for x in value if x not in (True, False, None)] or {**value, 1: lambda: (yield)}
from .. import helpers as h
from a.b import *
'''


def test_the_text_of_code_is_the_same_in_every_version_of_python() -> None:
    digest = hashlib.sha256(told(ast.parse(CODE)).encode("ascii")).hexdigest()

    # What Python 3.10, 3.11, 3.12 and 3.13 give.
    assert digest == "bc9d262abbeae305ac170a940e87f2d9e9a71d643ecde51a3d320da012a65911"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'b'", "x = b'b'"),
        ("x = None", "x: None"),
        ("x = (1, 2)", "x = [1, 2]"),
        ("x = [1], 2", "x = [1, 2]"),
        ("x = ''", "x = f''"),
        ("f(a, b)", "f(a, b=b)"),
        ("x = ['a,', 'b']", "x = ['a', ',b']"),
        ("x = {**a}", "x = {a: a}"),
        ("from . import x", "from .. import x"),
        ("def f(a, *, b, c=1): pass", "def f(a, *, b=1, c): pass"),
        ("f'{a}b'", "f'{a!s}b'"),
        ("x = 0", "x = ''"),
    ],
)
def test_other_code_has_another_text(one: str, other: str) -> None:
    assert told(ast.parse(one)) != told(ast.parse(other))


def test_an_expression_as_deep_as_python_parses_has_a_text() -> None:
    tree = ast.parse("x = " + " + ".join(["a"] * 2_000))

    assert told(tree).count("BinOp") == 1_999


def test_numbers_too_long_for_decimals_and_halves_of_characters_have_a_text() -> None:
    assert "0xff" in told(ast.parse(f"x = 0x{'f' * 9_000}"))
    assert told(ast.parse(r"x = '\ud800'")).isascii()


def test_what_a_source_assigns_once_is_a_literal_or_imported() -> None:
    found = assigned(
        "A = B = -1\nC = f()\nD = 1\nD += 1\nE: int\nF = 2\ndef F(): pass\n"
        "from x import y as G, z\nH = (1, C)\nif A:\n    z = 3\nfrom .w import *\n"
    )

    assert found["A"] == found["B"] == "UnaryOp(op=USub();operand=int:0x1;)"
    assert {name: value for name, value in found.items() if isinstance(value, tuple)} == {
        "G": (0, "x", "y"),
        "*1": (1, "w", "*"),
    }
    assert set(found) == {"A", "B", "G", "*1"}
